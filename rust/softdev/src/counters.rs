//! What the device saw, for tests to assert on.

macro_rules! counters {
    (
        sums { $($(#[$sum_doc:meta])* $sum:ident,)* }
        maxima { $($(#[$max_doc:meta])* $max:ident,)* }
    ) => {
        /// Counts since the device was made, or since they were last reset.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $($(#[$sum_doc])* pub $sum: u64,)*
            $($(#[$max_doc])* pub $max: u64,)*
        }

        impl Counters {
            /// Add what happened in one batch.
            pub(crate) fn merge(&mut self, batch: &Self) {
                $(self.$sum = self.$sum.wrapping_add(batch.$sum);)*
                $(self.$max = self.$max.max(batch.$max);)*
            }

            /// Every counter with its name.
            pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + use<> {
                [
                    $((stringify!($sum), self.$sum),)*
                    $((stringify!($max), self.$max),)*
                ]
                .into_iter()
            }
        }
    };
}

counters! {
    sums {
        /// Chains taken from available rings.
        chains,
        /// Buffers that those chains described.
        segments,
        /// Chains that used an indirect table.
        indirect_chains,
        /// Chains given back to the driver.
        completions,
        /// Used elements that the driver was shown. In order one can stand for several chains.
        used_elements,
        /// Chains, rings and requests that broke the rules.
        bad_chains,
        /// IN requests.
        reads,
        /// OUT requests.
        writes,
        /// FLUSH requests.
        flushes,
        /// DISCARD requests.
        discards,
        /// WRITE_ZEROES requests.
        write_zeroes,
        /// GET_ID requests.
        get_ids,
        /// Requests of any other type.
        unknown_requests,
        /// Requests answered with a status other than OK.
        failed_requests,
        /// Bytes that IN requests were given.
        bytes_read,
        /// Bytes that OUT requests brought.
        bytes_written,
        /// Notifications from the driver.
        kicks,
        /// Used buffer notifications sent.
        interrupts,
        /// Used buffer notifications that the driver did not want.
        interrupts_suppressed,
        /// Configuration change notifications sent.
        config_interrupts,
        /// Times that a new available index was found.
        batches,
    }
    maxima {
        /// Most chains that one new available index brought.
        largest_batch,
        /// Most chains available and not yet used at one time.
        most_outstanding,
        /// Most descriptors in one chain, those of indirect tables included.
        largest_chain,
    }
}

#[cfg(test)]
mod tests {
    use super::Counters;

    #[test]
    fn merging_adds_sums_and_keeps_maxima() {
        let mut total = Counters { chains: 3, largest_chain: 7, ..Counters::default() };
        total.merge(&Counters { chains: 2, largest_chain: 4, ..Counters::default() });
        assert_eq!(total, Counters { chains: 5, largest_chain: 7, ..Counters::default() });
    }
}
