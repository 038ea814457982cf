//! The thin PyO3 binding of the Rust core: the extension module `vioblk._native`.
//!
//! It converts and checks arguments, and turns errors into exceptions; it decides nothing. Unsafe
//! code is confined to the buffer protocol, in `memory`, `bytes`, `flat_buffer` and `arrays`.

#![deny(unsafe_code)]

mod arguments;
mod arrays;
mod block_queue;
mod bytes;
mod chains;
mod direct;
mod doorbell;
mod errors;
mod flat_buffer;
mod gate;
mod memory;
mod mmio;
mod packed_queue;
mod pci_face;
mod slot_pool;
mod software;
mod split_queue;

use pyo3::prelude::*;

/// The Rust core of vioblk.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let profile = if cfg!(debug_assertions) { "debug" } else { "release" };
    module.add("BUILD_PROFILE", profile)?;
    module.add_class::<gate::Gate>()?;
    module.add_class::<memory::Mapping>()?;
    module.add_class::<memory::Region>()?;
    module.add_class::<memory::DmaSpace>()?;
    module.add_class::<mmio::MmioWindow>()?;
    module.add_class::<doorbell::Doorbell>()?;
    module.add_class::<split_queue::SplitLayout>()?;
    module.add_class::<split_queue::SplitQueue>()?;
    module.add_class::<packed_queue::PackedLayout>()?;
    module.add_class::<packed_queue::PackedQueue>()?;
    module.add_class::<block_queue::BlockLimits>()?;
    module.add_class::<block_queue::BlockQueue>()?;
    module.add_class::<direct::DirectTransfers>()?;
    module.add_class::<slot_pool::SlotPool>()?;
    software::register(module)?;
    module.add_class::<pci_face::PciFace>()?;
    module.add_function(wrap_pyfunction!(split_queue::split_layout, module)?)?;
    module.add_function(wrap_pyfunction!(packed_queue::packed_layout, module)?)
}
