//! What `explain` says of where it read a fact, against a disassembler.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::support::{
    SSLSESS,
    oracle::{Language, Oracle},
};

/// The function and the instruction at an address, as objdump has them.
fn disassembled(file: &Path, address: u64) -> (String, String) {
    let mut command = Command::new("objdump");
    command.args(["-d", "--no-show-raw-insn"]);
    command.arg(format!("--start-address={address}"));
    // An instruction has at most 15 bytes.
    command.arg(format!("--stop-address={}", address + 15));
    let output = command.arg(file).output().expect("objdump is installed");
    assert!(output.status.success(), "{command:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    // 0000000000036584 <SSL_CTX_ctrl@@OPENSSL_3.0.0+0x1b4>:
    //    36584:    movslq 0x78(%r8),%rax
    let function = text.lines().find_map(|line| {
        let (_, named) = line.strip_suffix(">:")?.split_once('<')?;
        named.split(['@', '+']).next()
    });
    let instruction = text.lines().find_map(|line| {
        let (at, instruction) = line.trim_start().split_once(":\t")?;
        (u64::from_str_radix(at, 16) == Ok(address)).then_some(instruction)
    });
    let words: Vec<&str> = instruction.expect("an instruction").split_whitespace().collect();
    (function.expect("a function").to_owned(), words.join(" "))
}

/// Compares what is said of one field; `offset`: what was learnt.
fn compare(file: &Path, evidence: &Value, offset: u64) {
    let field = evidence["field"].as_str().expect("a name");
    let read_at = &evidence["read_at"];
    let beside;
    let file = match read_at["file"].as_str() {
        None => file,
        Some(other) => {
            assert_eq!(field, "num_items", "only that is in another file");
            beside = file.with_file_name(other);
            &beside
        }
    };
    let address = read_at["address"].as_u64().expect("an address");
    let (function, instruction) = disassembled(file, address);
    assert_eq!(read_at["function"], *function, "{field}");
    let place = format!("{offset:#x}(");
    // Small numbers are not hexadecimal in the agent's text.
    let ours = read_at["instruction"].as_str().expect("a text");
    let ours = if offset < 10 { ours.replace(&format!("{offset}("), &place) } else { ours.into() };
    assert_eq!(ours, instruction, "{field}");
    let (name, operands) = instruction.rsplit_once(' ').expect("operands");
    match field {
        "references" => {
            assert!(name.starts_with("lock ") && operands.contains(&place), "{instruction}");
        }
        // Learnt from what writes it.
        "session_id_context_length" => {
            assert!(name.starts_with("mov") && operands.contains(&place), "{field}: {instruction}");
        }
        _ => assert!(
            name.starts_with("mov") && operands.starts_with(&place),
            "{field} is loaded from {offset:#x}: {instruction}"
        ),
    }
}

#[test]
fn every_fact_was_read_where_explain_says() {
    let mut oracle = Oracle::start(Language::Perl);
    oracle.ask("stats");
    let pid = oracle.pid().to_string();
    let output = Command::new(SSLSESS).args(["explain", "--json", "--pid", &pid]).output();
    let explained: Value = serde_json::from_slice(&output.expect("it runs").stdout).expect("JSON");
    let explained = &explained[0];
    let file = Path::new(explained["file"].as_str().expect("a path"));
    let entries = |key: &str| explained[key].as_array().expect("an array").iter();
    let mut compared = 0;
    for evidence in entries("evidence") {
        let field = evidence["field"].as_str().expect("a name");
        compare(file, evidence, explained["layout"][field].as_u64().expect("an offset"));
        compared += 1;
    }
    for evidence in entries("settings_evidence") {
        let field = evidence["field"].as_str().expect("a name");
        let offset = &explained["settings"][field]["offset"];
        compare(file, evidence, offset.as_u64().expect("an offset"));
        compared += 1;
    }
    assert_eq!(compared, 16 + 12);
    let text = Command::new(SSLSESS).arg("explain").arg(file).output().expect("it runs");
    let text = String::from_utf8(text.stdout).expect("UTF-8");
    let of_libcrypto = "in OPENSSL_LH_num_items, libcrypto.so.3";
    assert!(text.lines().any(|line| line.ends_with(of_libcrypto)), "{text}");
}
