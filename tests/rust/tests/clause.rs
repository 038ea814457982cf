//! The clause macro: what it records, seen from a run of this very test program.

#![allow(clippy::expect_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::fs;
use std::process::Command;

use vioblk_tests::clause;

/// Runs one ignored test of this program with a record file: whether it passed, and the record.
fn record_of(test: &str) -> (bool, String) {
    let path = std::env::temp_dir().join(format!("vioblk-clause-{}-{test}", std::process::id()));
    let program = std::env::current_exe().expect("the path of this program");
    let done = Command::new(program)
        .args(["--ignored", "--exact", test])
        .env("VIOBLK_CLAUSE_RECORD", &path)
        .output()
        .expect("run this program");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(said.contains("running 1 test"), "{done:?}");
    // Failed as tests fail, and not by dying of something else.
    let verdict = if done.status.success() { "1 passed; 0 failed" } else { "0 passed; 1 failed" };
    assert!(said.contains(verdict), "{done:?}");
    let record = fs::read_to_string(&path).unwrap_or_default();
    let _ = fs::remove_file(&path);
    (done.status.success(), record)
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
    let record = "{\"test\": \"clause::passes\", \"outcome\": \"passed\", \
                  \"clauses\": [\"SPLIT-AVAIL-01\", \"CONF-01\"], \"vacuous\": []}\n";
    assert_eq!(record_of("passes"), (true, record.to_owned()));
}

#[test]
fn a_test_that_panics_fails_and_is_not_recorded() {
    assert_eq!(record_of("fails"), (false, String::new()));
}

#[test]
fn an_unknown_clause_fails_the_test() {
    assert_eq!(record_of("names_no_clause"), (false, String::new()));
}
