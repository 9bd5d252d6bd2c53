//! The kinds of damage.

use crate::{
    anatomy::{Anatomy, ENTRY, Section},
    instruction,
    interest::Interest,
    mutant::{Change, Edit},
    random::Random,
};

/// Makes one change of its kind, if chance finds a place for it.
pub(crate) type Make = fn(&Anatomy, &Interest, &mut Random) -> Option<Change>;

/// All of them, by name.
pub(crate) const KINDS: [(&str, Make); 26] = [
    ("displacement", |a, i, r| at_instruction(a, &i.asked, r, instruction::displacement)),
    ("immediate", |a, i, r| at_instruction(a, &i.asked, r, instruction::immediate)),
    ("register", |a, i, r| at_instruction(a, &i.asked, r, instruction::register)),
    ("opcode", |a, i, r| at_instruction(a, &i.asked, r, instruction::opcode)),
    ("condition", |a, i, r| at_instruction(a, &i.asked, r, instruction::condition)),
    ("target", |a, i, r| at_instruction(a, &i.asked, r, instruction::target)),
    ("nothing", |a, i, r| at_instruction(a, &i.asked, r, instruction::nothing)),
    ("bit", |a, i, r| bit(a, &i.asked, r)),
    ("swap", |a, i, r| swap(a, &i.asked, r)),
    ("witness-displacement", |a, i, r| {
        at_instruction(a, &i.witnesses, r, instruction::displacement)
    }),
    ("witness-bit", |a, i, r| bit(a, &i.witnesses, r)),
    ("increment-displacement", |a, i, r| {
        at_instruction(a, &i.increments, r, instruction::displacement)
    }),
    ("increment-bit", |a, i, r| bit(a, &i.increments, r)),
    ("table-swap", table_swap),
    ("table-shift", table_shift),
    ("body", body),
    ("symbol-value", symbol_value),
    ("symbol-size", symbol_size),
    ("symbol-names", symbol_names),
    ("relocation-dropped", relocation_dropped),
    ("relocation-redirected", relocation_redirected),
    ("eh-frame", eh_frame),
    ("section-cleared", section_cleared),
    ("section-header", section_header),
    ("segment", segment),
    ("truncated", truncated),
];

type Rewrite = fn(object::Architecture, &[u8], u64, &mut Random) -> Option<Vec<u8>>;

fn at_instruction(
    anatomy: &Anatomy,
    addresses: &[u64],
    random: &mut Random,
    rewrite: Rewrite,
) -> Option<Change> {
    let at = *random.pick(addresses)?;
    let offset = anatomy.offset(at)?;
    let changed = rewrite(anatomy.architecture, anatomy.bytes(at)?, at, random)?;
    let what = format!(
        "{at:#x}: {} to {}",
        hex(anatomy.data.get(offset..offset + changed.len())?),
        hex(&changed)
    );
    Some(Change::new(what, vec![Edit::new(offset, changed)]))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bit(anatomy: &Anatomy, addresses: &[u64], random: &mut Random) -> Option<Change> {
    let at = *random.pick(addresses)?;
    let code = anatomy.bytes(at)?;
    let length = instruction::length(anatomy.architecture, code, at)?;
    let (byte, bit) = (random.below(length), random.below(8));
    let changed = code.get(byte)? ^ 1 << bit;
    let what = format!("{at:#x}: bit {bit} of byte {byte} of {}", hex(code.get(..length)?));
    Some(Change::new(what, vec![Edit::new(anatomy.offset(at)? + byte, [changed])]))
}

/// An instruction and the one behind it change places.
fn swap(anatomy: &Anatomy, addresses: &[u64], random: &mut Random) -> Option<Change> {
    let at = *random.pick(addresses)?;
    let code = anatomy.bytes(at)?;
    let first = instruction::length(anatomy.architecture, code, at)?;
    let second = instruction::length(anatomy.architecture, code.get(first..)?, at + first as u64)?;
    let mut bytes = code.get(first..first + second)?.to_vec();
    bytes.extend_from_slice(code.get(..first)?);
    let what = format!("{at:#x}: swapped with the next");
    Some(Change::new(what, vec![Edit::new(anatomy.offset(at)?, bytes)]))
}

/// Two entries of jump tables change places, or one takes the other's.
fn table_swap(anatomy: &Anatomy, interest: &Interest, random: &mut Random) -> Option<Change> {
    let (one, width) = *random.pick(&interest.constants)?;
    let (other, other_width) = *random.pick(&interest.constants)?;
    if width != other_width || one == other {
        return None;
    }
    let (at, other_at) = (anatomy.offset(one)?, anatomy.offset(other)?);
    let bytes = |at: usize| anatomy.data.get(at..at + width).map(<[u8]>::to_vec);
    let mut edits = vec![Edit::new(at, bytes(other_at)?)];
    if random.below(2) == 0 {
        edits.push(Edit::new(other_at, bytes(at)?));
    }
    Some(Change::new(format!("{one:#x} and {other:#x}"), edits))
}

/// All entries of a table move by one or more.
fn table_shift(anatomy: &Anatomy, interest: &Interest, random: &mut Random) -> Option<Change> {
    let (one, width) = *random.pick(&interest.constants)?;
    let entries: Vec<u64> = interest
        .constants
        .iter()
        .filter(|(at, w)| *w == width && at.abs_diff(one) <= 16 * width as u64)
        .map(|(at, _)| *at)
        .collect();
    let by = width as i64 * [-2, -1, 1, 2][random.below(4)];
    let mut edits = Vec::new();
    for entry in entries {
        let from = anatomy.offset(entry.wrapping_add_signed(by))?;
        let bytes = anatomy.data.get(from..from + width)?;
        edits.push(Edit::new(anatomy.offset(entry)?, bytes));
    }
    Some(Change::new(format!("around {one:#x} by {by}"), edits))
}

/// A function's body is another's.
fn body(anatomy: &Anatomy, interest: &Interest, random: &mut Random) -> Option<Change> {
    let name = *random.pick(&interest.functions)?;
    let symbol = anatomy.symbol(name)?;
    // Accessors are short: what replaces one is often one, too.
    let short: Vec<_> = anatomy.symbols.iter().filter(|s| (4..64).contains(&s.size)).collect();
    let other = *random.pick(&short)?;
    let bytes = anatomy.bytes(other.address)?.get(..other.size as usize)?;
    let what = format!("{name} has the body of {}", other.name);
    Some(Change::new(what, vec![Edit::new(anatomy.offset(symbol.address)?, bytes)]))
}

/// A symbol leads to another function.
fn symbol_value(anatomy: &Anatomy, interest: &Interest, random: &mut Random) -> Option<Change> {
    let name = *random.pick(&interest.functions)?;
    let other = random.pick(&anatomy.symbols)?;
    let near = random.below(4) == 0;
    let address = if near {
        anatomy.symbol(name)?.address.wrapping_add(random.below(32) as u64).wrapping_sub(16)
    } else {
        other.address
    };
    // In both tables: a stripped file has one only.
    let edits = anatomy
        .symbols
        .iter()
        .filter(|symbol| symbol.name == name)
        .map(|symbol| Edit::new(symbol.entry + 8, address.to_le_bytes()))
        .collect();
    let to = if near { format!("{address:#x}") } else { other.name.clone() };
    Some(Change::new(format!("{name} leads to {to}"), edits))
}

fn symbol_size(anatomy: &Anatomy, interest: &Interest, random: &mut Random) -> Option<Change> {
    let symbol = anatomy.symbol(random.pick(&interest.functions)?)?;
    let size = match random.below(4) {
        0 => 0,
        1 => u64::MAX,
        2 => random.next() & 0xfff,
        _ => symbol.size / 2,
    };
    let edit = Edit::new(symbol.entry + 16, size.to_le_bytes());
    Some(Change::new(format!("{} has {size:#x} bytes", symbol.name), vec![edit]))
}

/// Two functions have each other's name.
fn symbol_names(anatomy: &Anatomy, interest: &Interest, random: &mut Random) -> Option<Change> {
    let one = anatomy.symbol(random.pick(&interest.functions)?)?;
    let other = if random.below(2) == 0 {
        anatomy.symbol(random.pick(&interest.functions)?)?
    } else {
        random.pick(&anatomy.symbols)?
    };
    let name = |entry: usize| anatomy.data.get(entry..entry + 4).map(<[u8]>::to_vec);
    let edits =
        vec![Edit::new(one.entry, name(other.entry)?), Edit::new(other.entry, name(one.entry)?)];
    Some(Change::new(format!("{} and {}", one.name, other.name), edits))
}

fn relocation_dropped(anatomy: &Anatomy, _: &Interest, random: &mut Random) -> Option<Change> {
    let at = *random.pick(&anatomy.relocations)?;
    let how_many = 1 + random.below(64);
    let end = at + how_many * ENTRY;
    let edits = anatomy
        .relocations
        .iter()
        .filter(|entry| (at..end).contains(*entry))
        .map(|entry| Edit::new(*entry, [0; ENTRY]))
        .collect();
    Some(Change::new(format!("{how_many} from {at:#x}"), edits))
}

/// Another symbol, another addend, or another place.
fn relocation_redirected(anatomy: &Anatomy, _: &Interest, random: &mut Random) -> Option<Change> {
    let of_interest: Vec<usize> = anatomy
        .relocations
        .iter()
        .copied()
        .filter(|at| imports_hash(anatomy, *at) || random.below(64) == 0)
        .collect();
    let at = *random.pick(&of_interest)?;
    let other = *random.pick(&anatomy.relocations)?;
    let (field, length) = [(0, 8), (8, 8), (16, 8), (12, 4)][random.below(4)];
    let bytes = anatomy.data.get(other + field..other + field + length)?;
    let what = format!("bytes {field} to {} of {at:#x} from {other:#x}", field + length);
    Some(Change::new(what, vec![Edit::new(at + field, bytes)]))
}

/// Whether a relocation is for a function of the hash.
fn imports_hash(anatomy: &Anatomy, relocation: usize) -> bool {
    let name = || {
        let index = anatomy.word(relocation + 8)? >> 32;
        let symbol = anatomy.section(".dynsym")?.offset + index as usize * ENTRY;
        let name = anatomy.word(symbol)? & 0xffff_ffff;
        let strings = anatomy.section(".dynstr")?;
        anatomy.data.get(strings.offset + name as usize..)
    };
    name().is_some_and(|name| name.starts_with(b"OPENSSL_LH_"))
}

fn eh_frame(anatomy: &Anatomy, _: &Interest, random: &mut Random) -> Option<Change> {
    let section = anatomy.section(".eh_frame")?;
    let count = 1 + random.below(16);
    let from = random.below(section.size);
    let bytes: Vec<u8> = (0..count).map(|_| random.next() as u8).collect();
    let what = format!("{count} bytes at {from:#x}");
    Some(Change::new(what, vec![Edit::new(section.offset + from, bytes)]))
}

fn worth_damaging(anatomy: &Anatomy) -> Vec<&Section> {
    const NAMES: [&str; 14] = [
        ".text",
        ".rodata",
        ".dynsym",
        ".dynstr",
        ".symtab",
        ".strtab",
        ".rela.dyn",
        ".rela.plt",
        ".eh_frame",
        ".dynamic",
        ".plt",
        ".plt.sec",
        ".got",
        ".data.rel.ro",
    ];
    anatomy.sections.iter().filter(|s| NAMES.contains(&s.name.as_str()) && s.size > 0).collect()
}

/// A section's bytes are zero, all of them or from somewhere on.
fn section_cleared(anatomy: &Anatomy, _: &Interest, random: &mut Random) -> Option<Change> {
    let sections = worth_damaging(anatomy);
    let section = *random.pick(&sections)?;
    let from = if random.below(3) == 0 { 0 } else { random.below(section.size) };
    let length =
        if random.below(2) == 0 { section.size - from } else { random.below(section.size - from) };
    let what = format!("{length:#x} bytes of {} from {from:#x}", section.name);
    Some(Change::new(what, vec![Edit::new(section.offset + from, vec![0; length])]))
}

/// A field of a section header, or all of it, is zero or another one's.
fn section_header(anatomy: &Anatomy, _: &Interest, random: &mut Random) -> Option<Change> {
    const FIELDS: [(&str, usize, usize); 7] = [
        ("all", 0, 64),
        ("the name", 0, 4),
        ("the type", 4, 4),
        ("the address", 16, 8),
        ("the offset", 24, 8),
        ("the size", 32, 8),
        ("the link", 40, 4),
    ];
    let sections = worth_damaging(anatomy);
    let section = *random.pick(&sections)?;
    let (name, field, length) = *random.pick(&FIELDS)?;
    let other = random.pick(&anatomy.sections)?;
    let (bytes, what) = match random.below(3) {
        0 => (vec![0; length], "zero".to_owned()),
        1 => {
            let from = other.header + field;
            (anatomy.data.get(from..from + length)?.to_vec(), format!("that of {}", other.name))
        }
        _ => {
            let delta = [8, 16, 24, 64, 4096][random.below(5)];
            let old = anatomy.word(section.header + 24)?;
            let edit = Edit::new(section.header + 24, old.wrapping_add(delta).to_le_bytes());
            let what = format!("the offset of {} is {delta} larger", section.name);
            return Some(Change::new(what, vec![edit]));
        }
    };
    let what = format!("{name} of {} is {what}", section.name);
    Some(Change::new(what, vec![Edit::new(section.header + field, bytes)]))
}

/// A segment is mapped elsewhere, from elsewhere, or over another one.
fn segment(anatomy: &Anatomy, _: &Interest, random: &mut Random) -> Option<Change> {
    let load = random.pick(&anatomy.loads)?;
    let other = random.pick(&anatomy.loads)?;
    let moved = |value: u64, random: &mut Random| {
        let by = [4, 8, 16, 64, 4096, 0x10000][random.below(6)];
        if random.below(2) == 0 { value.wrapping_add(by) } else { value.wrapping_sub(by) }
    };
    let (field, value, what) = match random.below(6) {
        0 => (8, moved(load.offset, random), "offset moved"),
        1 => (16, moved(load.address, random), "address moved"),
        2 => (16, other.address, "address of another one"),
        3 => (8, other.offset, "offset of another one"),
        4 => (32, random.next() % (anatomy.data.len() as u64 * 2), "size in the file"),
        _ => (32, load.size.wrapping_mul(3), "three times as large"),
    };
    let what = format!("{what}: {value:#x} for the segment at {:#x}", load.address);
    let mut edits = vec![Edit::new(load.header + field, value.to_le_bytes())];
    if field == 32 {
        edits.push(Edit::new(load.header + 40, value.to_le_bytes()));
    }
    Some(Change::new(what, edits))
}

fn truncated(anatomy: &Anatomy, _: &Interest, random: &mut Random) -> Option<Change> {
    let size = anatomy.data.len();
    let end = if random.below(4) == 0 { random.below(4096) } else { random.below(size) };
    let mut change = Change::new(format!("at {end:#x}"), Vec::new());
    change.end = Some(end);
    // What only the tools need: the headers at the end, which are kept.
    if random.below(2) == 0 {
        let what = format!("zeros from {end:#x}, up to the section headers");
        let headers = anatomy.sections.iter().map(|section| section.header).min()?;
        return (headers > end)
            .then(|| Change::new(what, vec![Edit::new(end, vec![0; headers - end])]));
    }
    Some(change)
}
