//! The clause macro: what it records, seen from a run of this very test program.

#![allow(clippy::expect_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::fs;
use std::process::Command;

use vioblk_tests::clause;

/// Runs one ignored test of this program with a record file and returns the record.
fn record_of(test: &str) -> String {
    let path = std::env::temp_dir().join(format!("vioblk-clause-{}-{test}", std::process::id()));
    let program = std::env::current_exe().expect("the path of this program");
    let done = Command::new(program)
        .args(["--ignored", "--exact", test])
        .env("VIOBLK_CLAUSE_RECORD", &path)
        .output()
        .expect("run this program");
    assert!(String::from_utf8_lossy(&done.stdout).contains("running 1 test"), "{done:?}");
    let record = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_file(&path);
    record
}

#[test]
#[ignore = "run by record_of"]
fn passes() {
    clause!("SPLIT-AVAIL-01", "CONF-01");
}

#[test]
#[ignore = "run by record_of"]
fn fails() {
    clause!("SPLIT-AVAIL-01");
    panic!("on purpose");
}

#[test]
#[ignore = "run by record_of"]
fn names_no_clause() {
    clause!("NO-SUCH-99");
}

#[test]
fn a_test_that_passes_is_recorded_with_its_name_and_clauses() {
    assert_eq!(
        record_of("passes"),
        "{\"test\": \"clause::passes\", \"outcome\": \"passed\", \
         \"clauses\": [\"SPLIT-AVAIL-01\", \"CONF-01\"], \"vacuous\": []}\n"
    );
}

#[test]
fn a_test_that_panics_is_not_recorded() {
    assert_eq!(record_of("fails"), "");
}

#[test]
fn an_unknown_clause_fails_the_test() {
    assert_eq!(record_of("names_no_clause"), "");
}
