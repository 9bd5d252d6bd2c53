//! The binary: everything is in the library.
use std::path::PathBuf;
use sslsess::image::*;
fn main() {
    let path = PathBuf::from(std::env::args().nth(1).expect("file"));
    let elf = Elf::open(&path).unwrap();
    let t = std::time::Instant::now();
    let c = companion::libcrypto_name(&elf).and_then(|n| companion::find_beside(&path, n)).map(|r| r.unwrap());
    let comp = match &c { Some(e) => Companion::Found(e), None => Companion::Missing("x".into()) };
    let im = Image::learn(path, &elf, &comp, PlanChoice::Auto);
    println!("{:?}", t.elapsed());
    for e in &im.learnt.evidence { println!("{} {} {}", e.field, e.question, e.answer); }
    for g in im.gaps() { println!("GAP {} {}", g.field, g.reason); }
    for p in &im.plan.points { println!("{:?} {} {:x} {} {:?}", p.kind, p.function, p.address, p.instruction, p.argument); }
    println!("{:?} {:?}", im.version, im.build_id);
    let im = Image::learn(im.path, &elf, &comp, PlanChoice::Entry);
    for g in im.gaps() { println!("GAP {} {}", g.field, g.reason); }
    for p in &im.plan.points { println!("{:?} {} {:x} {} {:?}", p.kind, p.function, p.address, p.instruction, p.argument); }
}
