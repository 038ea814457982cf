//! The clause map: which test proves which normative statement of VIRTIO 1.4.

use std::fs::OpenOptions;
use std::io::Write;

/// The table that ids are checked against, shared with the Python tests.
const TABLE: &str = include_str!("../../clauses/driver_clauses.tsv");

/// A test that claims more clauses than this proves none of them well.
pub const MAX_CLAUSES_PER_TEST: usize = 4;

/// Names the clauses that a test proves; the first line of the test.
///
/// ```ignore
/// #[test]
/// fn publish_writes_the_entry_before_the_index() {
///     clause!("SPLIT-AVAIL-01");
/// ```
///
/// A test that passes is recorded in the file that `VIOBLK_CLAUSE_RECORD` names, if it is set.
#[macro_export]
macro_rules! clause {
    ($($id:literal),+ $(,)?) => {
        const {
            assert!(
                [$($id),+].len() <= $crate::MAX_CLAUSES_PER_TEST,
                "a test names at most four clauses"
            );
        }
        // A type defined here carries the path of the test around it.
        struct ClauseProbe;
        let _clause_guard =
            $crate::ClauseGuard::new(std::any::type_name::<ClauseProbe>(), &[$($id),+]);
    };
}

/// Records a test and its clauses when it goes out of scope without a panic. See [`clause!`].
#[derive(Debug)]
#[must_use]
pub struct ClauseGuard {
    test: &'static str,
    ids: &'static [&'static str],
}

impl ClauseGuard {
    /// `probe` is the path of a type defined in the test: the test's own path and one segment.
    ///
    /// # Panics
    /// If an id is not in the table.
    pub fn new(probe: &'static str, ids: &'static [&'static str]) -> Self {
        for id in ids {
            let known = TABLE.lines().skip(1).any(|row| row.split('\t').next() == Some(*id));
            assert!(known, "no such clause in driver_clauses.tsv: {id}");
        }
        let test = probe.rsplit_once("::").map_or(probe, |(test, _)| test);
        Self { test, ids }
    }

    fn record(&self) -> String {
        let ids: Vec<String> = self.ids.iter().map(|id| format!("\"{id}\"")).collect();
        // Paths of Rust items and ids hold nothing that JSON would escape.
        format!(
            "{{\"test\": \"{}\", \"outcome\": \"passed\", \"clauses\": [{}], \"vacuous\": []}}\n",
            self.test,
            ids.join(", ")
        )
    }
}

impl Drop for ClauseGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let Some(path) = std::env::var_os("VIOBLK_CLAUSE_RECORD") else {
            return;
        };
        // One write in append mode, so that lines of parallel tests do not mix.
        let written = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(self.record().as_bytes()));
        if let Err(error) = written {
            panic!("cannot record a clause in {}: {error}", path.display());
        }
    }
}
