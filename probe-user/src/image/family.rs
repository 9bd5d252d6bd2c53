//! Whose library it is: OpenSSL's own, or one of those that began as a copy of
//! it and have counted differently since.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::elf::Elf;

/// OpenSSL, and its relatives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Family {
    /// OpenSSL, 1.1.1 and later.
    #[serde(rename = "OpenSSL")]
    OpenSsl,
    /// LibreSSL: it counts as OpenSSL does, but nothing of TLS 1.3
    /// (`tls13_*.c` never touch `stats`, LibreSSL 4.3.0).
    #[serde(rename = "LibreSSL")]
    LibreSsl,
    /// AWS-LC: ten counters, each with a function of its own.
    #[serde(rename = "AWS-LC")]
    AwsLc,
    /// BoringSSL: the functions are there and return 0; only the size of the
    /// internal cache is real.
    #[serde(rename = "BoringSSL")]
    BoringSsl,
}

/// How a library is asked for its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accessors {
    /// `SSL_CTX_ctrl` with a command for each: the `SSL_CTX_sess_*` are macros.
    Commands,
    /// Each `SSL_CTX_sess_*` is a function.
    Functions,
}

/// Exported by every OpenSSL and LibreSSL; BoringSSL removed it, and AWS-LC with it.
const COMMANDS: &str = "SSL_CTX_ctrl";
/// LibreSSL's own: no other library has them.
const LIBRESSL: [&str; 2] = ["SSL_CTX_load_verify_mem", "SSL_CTX_use_certificate_chain_mem"];
/// Functions in BoringSSL and what became of it, macros elsewhere.
const FUNCTIONS: [&str; 2] = ["SSL_CTX_sess_number", "SSL_CTX_sess_connect"];
/// AWS-LC's own: a connection as bytes (`ssl/ssl_transfer_asn1.cc`).
const AWS_LC: [&str; 2] = ["SSL_to_bytes", "SSL_from_bytes"];

impl Family {
    /// The family of a file that defines a libssl, by the functions in it: not by
    /// its name (NSS has a `libssl3.so`), and not by a version, which all of them
    /// make up for compatibility. `None`: it is no libssl that is known.
    ///
    /// What each counter is, and whether it is one, is asked of the code in any
    /// case: the family says how to ask.
    #[must_use]
    pub fn of(elf: &Elf) -> Option<Self> {
        let has = |functions: &[&str]| functions.iter().all(|f| elf.function(f).is_some());
        if !has(&["SSL_CTX_new", "SSL_CTX_free"]) {
            return None;
        }
        match (has(&[COMMANDS]), has(&FUNCTIONS)) {
            (true, _) if has(&LIBRESSL) => Some(Self::LibreSsl),
            (true, _) => Some(Self::OpenSsl),
            (false, true) if has(&AWS_LC) => Some(Self::AwsLc),
            (false, true) => Some(Self::BoringSsl),
            (false, false) => None,
        }
    }

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::OpenSsl => "OpenSSL",
            Self::LibreSsl => "LibreSSL",
            Self::AwsLc => "AWS-LC",
            Self::BoringSsl => "BoringSSL",
        }
    }

    /// How it is asked for its values.
    #[must_use]
    pub const fn accessors(self) -> Accessors {
        match self {
            Self::OpenSsl | Self::LibreSsl => Accessors::Commands,
            Self::AwsLc | Self::BoringSsl => Accessors::Functions,
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use probe_common::{COUNTERS, Counter};

    use super::*;
    use crate::image::{
        functions::Functions,
        gap::Gap,
        layout::{self, Companion, LearntLayout},
        specimen::{Specimen, library},
        unwind::FunctionRanges,
    };

    /// `mov OFFSET(%rdi),%eax; ret`: AWS-LC 1.69.0, gcc 12 -O3.
    fn loads(name: &'static str, offset: u32) -> Specimen {
        let mut code = vec![0x8b, 0x87];
        code.extend_from_slice(&offset.to_le_bytes());
        code.push(0xc3);
        (name, code, Vec::new())
    }

    /// `xor %eax,%eax; ret`: BoringSSL (boring-sys 4.22.0), gcc 12 -O3.
    fn returns_0(name: &'static str) -> Specimen {
        (name, vec![0x31, 0xc0, 0xc3], Vec::new())
    }

    fn named(name: &'static str) -> Specimen {
        (name, vec![0xc3], Vec::new())
    }

    const FUNCTION_OF: [&str; 11] = [
        "SSL_CTX_sess_connect",
        "SSL_CTX_sess_connect_renegotiate",
        "SSL_CTX_sess_connect_good",
        "SSL_CTX_sess_accept",
        "SSL_CTX_sess_accept_renegotiate",
        "SSL_CTX_sess_accept_good",
        "SSL_CTX_sess_misses",
        "SSL_CTX_sess_timeouts",
        "SSL_CTX_sess_cache_full",
        "SSL_CTX_sess_hits",
        "SSL_CTX_sess_cb_hits",
    ];

    /// What AWS-LC and BoringSSL have in common, linked statically; the code of
    /// AWS-LC 1.69.0, gcc 12 -O3.
    fn common() -> Vec<Specimen> {
        let number = vec![
            0x55, // push %rbp
            0x48, 0x8d, 0x6f, 0x18, // lea 0x18(%rdi),%rbp
            0x53, // push %rbx
            0x48, 0x89, 0xfb, // mov %rdi,%rbx
            0x48, 0x89, 0xef, // mov %rbp,%rdi
            0x48, 0x83, 0xec, 0x08, // sub $0x8,%rsp
            0xe8, 0, 0, 0, 0, // call CRYPTO_MUTEX_lock_read
            0x48, 0x8b, 0xbb, 0x80, 0, 0, 0, // mov 0x80(%rbx),%rdi
            0xe8, 0, 0, 0, 0, // call OPENSSL_lh_num_items
            0x48, 0x89, 0xef, // mov %rbp,%rdi
            0x48, 0x89, 0xc3, // mov %rax,%rbx
            0xe8, 0, 0, 0, 0, // call CRYPTO_MUTEX_unlock_read
            0x48, 0x83, 0xc4, 0x08, // add $0x8,%rsp
            0x48, 0x89, 0xd8, // mov %rbx,%rax
            0x5b, // pop %rbx
            0x5d, // pop %rbp
            0xc3, // ret
        ];
        let up_ref = vec![
            0x48, 0x83, 0xec, 0x08, // sub $0x8,%rsp
            0xe8, 0, 0, 0, 0, // call CRYPTO_refcount_inc
            0xb8, 1, 0, 0, 0, // mov $0x1,%eax
            0x48, 0x83, 0xc4, 0x08, // add $0x8,%rsp
            0xc3, // ret
        ];
        let refcount_inc = vec![
            0x8b, 0x07, // mov (%rdi),%eax
            0x83, 0xf8, 0xff, // cmp $0xffffffff,%eax
            0x74, 0x09, // je 0x10
            0x8d, 0x50, 0x01, // lea 0x1(%rax),%edx
            0xf0, 0x0f, 0xb1, 0x17, // lock cmpxchg %edx,(%rdi)
            0x75, 0xf2, // jne 0x2
            0xc3, // ret
        ];
        let calls = vec![
            (17, "CRYPTO_MUTEX_lock_read"),
            (29, "OPENSSL_lh_num_items"),
            (40, "CRYPTO_MUTEX_unlock_read"),
        ];
        vec![
            named("SSL_CTX_new"),
            named("SSL_CTX_free"),
            named("CRYPTO_MUTEX_lock_read"),
            named("CRYPTO_MUTEX_unlock_read"),
            ("SSL_CTX_sess_number", number, calls),
            // mov (%rdi),%rax; ret
            ("OPENSSL_lh_num_items", vec![0x48, 0x8b, 0x07, 0xc3], Vec::new()),
            ("SSL_CTX_up_ref", up_ref, vec![(5, "CRYPTO_refcount_inc")]),
            ("CRYPTO_refcount_inc", refcount_inc, Vec::new()),
            // mov 0x88(%rdi),%rax; ret
            ("SSL_get_SSL_CTX", vec![0x48, 0x8b, 0x87, 0x88, 0, 0, 0, 0xc3], Vec::new()),
        ]
    }

    /// Ten counters in a row, and a function that returns 0.
    fn aws_lc() -> Vec<Specimen> {
        let mut functions = common();
        functions.extend([named("SSL_to_bytes"), named("SSL_from_bytes")]);
        let mut offset = 0xc8;
        for (counter, function) in COUNTERS.into_iter().zip(FUNCTION_OF) {
            if counter == Counter::AcceptRenegotiate {
                functions.push(returns_0(function));
            } else {
                functions.push(loads(function, offset));
                offset += 4;
            }
        }
        functions
    }

    fn boringssl() -> Vec<Specimen> {
        let mut functions = common();
        functions.extend(FUNCTION_OF.map(returns_0));
        functions
    }

    fn learn(elf: &Elf) -> LearntLayout {
        let companion = Companion::Missing("libcrypto.so".to_owned());
        let family = Family::of(elf).expect("a family that is known");
        let ranges = FunctionRanges::read(elf);
        layout::learn(&mut Functions::new(elf, &ranges), &companion, family)
    }

    fn uncounted(learnt: &LearntLayout) -> Vec<String> {
        let gaps = learnt.gaps.iter().filter(|g| matches!(g.reason, Gap::NotCounted { .. }));
        gaps.map(|gap| gap.field.clone()).collect()
    }

    #[test]
    fn what_aws_lc_does_not_count_is_a_gap_and_the_rest_is_known() {
        let elf = library(&aws_lc());
        assert_eq!(Family::of(&elf), Some(Family::AwsLc));
        let learnt = learn(&elf);
        let layout = &learnt.layout;
        assert_eq!(uncounted(&learnt), ["accept_renegotiate"]);
        assert_eq!(layout.counters[Counter::Connect as usize], Some(0xc8));
        assert_eq!(layout.counters[Counter::AcceptRenegotiate as usize], None);
        assert_eq!(layout.counters[Counter::AcceptGood as usize], Some(0xd8));
        assert_eq!(layout.counters[Counter::CbHits as usize], Some(0xec));
        assert_eq!((layout.references, layout.sessions), (Some(0), Some(0x80)));
        assert_eq!((layout.num_items, layout.ssl_to_ctx), (Some(0), Some(0x88)));
        assert_eq!(layout.ssl_to_session_ctx, None);
        // Its block is no block of OpenSSL's: no increments are looked for.
        assert_eq!(layout.block(), None);
        assert_eq!(layout.kept().map(|kept| kept.len()), Some(10));
    }

    #[test]
    fn boringssl_counts_sessions_and_nothing_else() {
        let elf = library(&boringssl());
        assert_eq!(Family::of(&elf), Some(Family::BoringSsl));
        let learnt = learn(&elf);
        assert_eq!(uncounted(&learnt).len(), 11);
        assert_eq!(learnt.layout.counters, [None; 11]);
        assert_eq!(learnt.layout.kept(), Some(Vec::new()));
        assert_eq!((learnt.layout.sessions, learnt.layout.num_items), (Some(0x80), Some(0)));
    }

    #[test]
    fn a_row_with_something_in_between_is_not_believed() {
        let mut functions = aws_lc();
        let hits = functions.iter_mut().find(|f| f.0 == "SSL_CTX_sess_hits").expect("it is there");
        *hits = loads("SSL_CTX_sess_hits", 0xec);
        let learnt = learn(&library(&functions));
        assert_eq!(learnt.layout.counters, [None; 11]);
        assert_eq!(learnt.layout.kept(), None);
        let contradictions =
            learnt.gaps.iter().filter(|gap| matches!(gap.reason, Gap::Contradiction { .. }));
        assert_eq!(contradictions.count(), 10);
    }

    #[test]
    fn a_counter_that_may_be_0_is_not_one_that_is_not_kept() {
        // test %rsi,%rsi; je 0xc; mov 0xc8(%rdi),%eax; ret; xor %eax,%eax; ret
        let code =
            vec![0x48, 0x85, 0xf6, 0x74, 0x07, 0x8b, 0x87, 0xc8, 0, 0, 0, 0xc3, 0x31, 0xc0, 0xc3];
        let mut functions = boringssl();
        let at = functions.iter().position(|f| f.0 == FUNCTION_OF[0]).expect("it is there");
        functions[at] = (FUNCTION_OF[0], code, Vec::new());
        let learnt = learn(&library(&functions));
        assert!(!learnt.layout.uncounted[Counter::Connect as usize]);
        assert_eq!(uncounted(&learnt).len(), 10);
    }

    /// The shape of LibreSSL 4.3.0's functions: `number` of a hash that may be
    /// missing, counters by command, references added to under a lock.
    fn libressl() -> Vec<Specimen> {
        let ctrl = vec![
            0x83, 0xfe, 0x1a, // cmp $0x1a,%esi
            0x0f, 0x84, 0xb7, 0x00, 0x00, 0x00, // je 0xc0
            0x7f, 0x4d, // jg 0x58
            0x83, 0xfe, 0x17, // cmp $0x17,%esi
            0x0f, 0x84, 0x8c, 0x00, 0x00, 0x00, // je 0xa0
            0x7f, 0x1a, // jg 0x30
            0x83, 0xfe, 0x15, // cmp $0x15,%esi
            0x0f, 0x84, 0x89, 0x00, 0x00, 0x00, // je 0xa8
            0x83, 0xfe, 0x16, // cmp $0x16,%esi
            0x75, 0x1c, // jne 0x40
            0x48, 0x63, 0x47, 0x78, // movslq 0x78(%rdi),%rax
            0xc3, // ret
            0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00, // nopl 0x0(%rax)
            0x83, 0xfe, 0x18, // cmp $0x18,%esi
            0x74, 0x7b, // je 0xb0
            0x48, 0x63, 0x87, 0x84, 0x00, 0x00, 0x00, // movslq 0x84(%rdi),%rax
            0xc3, // ret
            0x0f, 0x1f, 0x00, // nopl (%rax)
            0x83, 0xfe, 0x14, // cmp $0x14,%esi
            0x0f, 0x85, 0x7f, 0x00, 0x00, 0x00, // jne 0xc8
            0x48, 0x8b, 0x7f, 0x40, // mov 0x40(%rdi),%rdi
            0xe9, 0x00, 0x00, 0x00, 0x00, // jmp 0x52
            0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00, // nopw 0x0(%rax,%rax,1)
            0x83, 0xfe, 0x1d, // cmp $0x1d,%esi
            0x74, 0x2b, // je 0x88
            0x7e, 0x19, // jle 0x78
            0x83, 0xfe, 0x1e, // cmp $0x1e,%esi
            0x74, 0x54, // je 0xb8
            0x83, 0xfe, 0x1f, // cmp $0x1f,%esi
            0x75, 0x5f, // jne 0xc8
            0x48, 0x63, 0x87, 0x90, 0x00, 0x00, 0x00, // movslq 0x90(%rdi),%rax
            0xc3, // ret
            0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00, // nopl 0x0(%rax)
            0x83, 0xfe, 0x1b, // cmp $0x1b,%esi
            0x74, 0x13, // je 0x90
            0x48, 0x63, 0x87, 0x98, 0x00, 0x00, 0x00, // movslq 0x98(%rdi),%rax
            0xc3, // ret
            0x0f, 0x1f, 0x00, // nopl (%rax)
            0x48, 0x63, 0x87, 0x88, 0x00, 0x00, 0x00, // movslq 0x88(%rdi),%rax
            0xc3, // ret
            0x48, 0x63, 0x87, 0x94, 0x00, 0x00, 0x00, // movslq 0x94(%rdi),%rax
            0xc3, // ret
            0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, // nopl 0x0(%rax,%rax,1)
            0x00, 0x48, 0x63, 0x47, 0x74, // movslq 0x74(%rdi),%rax
            0xc3, // ret
            0x0f, 0x1f, 0x00, // nopl (%rax)
            0x48, 0x63, 0x47, 0x70, // movslq 0x70(%rdi),%rax
            0xc3, // ret
            0x0f, 0x1f, 0x00, // nopl (%rax)
            0x48, 0x63, 0x47, 0x7c, // movslq 0x7c(%rdi),%rax
            0xc3, // ret
            0x0f, 0x1f, 0x00, // nopl (%rax)
            0x48, 0x63, 0x87, 0x8c, 0x00, 0x00, 0x00, // movslq 0x8c(%rdi),%rax
            0xc3, // ret
            0x48, 0x63, 0x87, 0x80, 0x00, 0x00, 0x00, // movslq 0x80(%rdi),%rax
            0xc3, // ret
            0x31, 0xc0, // xor %eax,%eax
            0xc3, // ret
        ];
        let up_ref = vec![
            0x48, 0x83, 0xec, 0x08, // sub $0x8,%rsp
            0x48, 0x81, 0xc7, 0xd0, 0x00, 0x00, 0x00, // add $0xd0,%rdi
            0x45, 0x31, 0xc0, // xor %r8d,%r8d
            0x31, 0xc9, // xor %ecx,%ecx
            0xba, 0x0c, 0x00, 0x00, 0x00, // mov $0xc,%edx
            0xbe, 0x01, 0x00, 0x00, 0x00, // mov $0x1,%esi
            0xe8, 0x00, 0x00, 0x00, 0x00, // call 0x1f
            0x83, 0xf8, 0x01, // cmp $0x1,%eax
            0x0f, 0x9f, 0xc0, // setg %al
            0x48, 0x83, 0xc4, 0x08, // add $0x8,%rsp
            0x0f, 0xb6, 0xc0, // movzbl %al,%eax
            0xc3, // ret
        ];
        let add_lock = vec![
            0x41, 0x56, // push %r14
            0x49, 0x89, 0xfe, // mov %rdi,%r14
            0xbf, 0x09, 0x00, 0x00, 0x00, // mov $0x9,%edi
            0x41, 0x55, // push %r13
            0x45, 0x89, 0xc5, // mov %r8d,%r13d
            0x41, 0x54, // push %r12
            0x49, 0x89, 0xcc, // mov %rcx,%r12
            0x44, 0x89, 0xc1, // mov %r8d,%ecx
            0x55, // push %rbp
            0x89, 0xd5, // mov %edx,%ebp
            0x4c, 0x89, 0xe2, // mov %r12,%rdx
            0x53, // push %rbx
            0x89, 0xf3, // mov %esi,%ebx
            0x89, 0xee, // mov %ebp,%esi
            0xe8, 0x00, 0x00, 0x00, 0x00, // call 0x27
            0x41, 0x03, 0x1e, // add (%r14),%ebx
            0x44, 0x89, 0xe9, // mov %r13d,%ecx
            0x4c, 0x89, 0xe2, // mov %r12,%rdx
            0x41, 0x89, 0x1e, // mov %ebx,(%r14)
            0x89, 0xee, // mov %ebp,%esi
            0xbf, 0x0a, 0x00, 0x00, 0x00, // mov $0xa,%edi
            0xe8, 0x00, 0x00, 0x00, 0x00, // call 0x3f
            0x89, 0xd8, // mov %ebx,%eax
            0x5b, // pop %rbx
            0x5d, // pop %rbp
            0x41, 0x5c, // pop %r12
            0x41, 0x5d, // pop %r13
            0x41, 0x5e, // pop %r14
            0xc3, // ret
        ];
        let num_items = vec![
            0x31, 0xc0, // xor %eax,%eax
            0x48, 0x85, 0xff, // test %rdi,%rdi
            0x74, 0x04, // je 0xb
            0x48, 0x8b, 0x47, 0x38, // mov 0x38(%rdi),%rax
            0xc3, // ret
        ];
        // mov 0x150(%rdi),%rax; test %rsi,%rsi; cmove %rax,%rsi; mov %rsi,%rax; ret
        let set_ctx = vec![
            0x48, 0x8b, 0x87, 0x50, 0x01, 0, 0, 0x48, 0x85, 0xf6, 0x48, 0x0f, 0x44, 0xf0, 0x48,
            0x89, 0xf0, 0xc3,
        ];
        vec![
            named("SSL_CTX_new"),
            named("SSL_CTX_free"),
            named("SSL_CTX_load_verify_mem"),
            named("SSL_CTX_use_certificate_chain_mem"),
            named("CRYPTO_lock"),
            ("SSL_CTX_ctrl", ctrl, vec![(0x4e, "lh_num_items")]),
            ("SSL_CTX_up_ref", up_ref, vec![(0x1b, "CRYPTO_add_lock")]),
            ("CRYPTO_add_lock", add_lock, vec![(0x23, "CRYPTO_lock"), (0x3b, "CRYPTO_lock")]),
            ("lh_num_items", num_items, Vec::new()),
            // mov 0x140(%rdi),%rax; ret
            ("SSL_get_SSL_CTX", vec![0x48, 0x8b, 0x87, 0x40, 0x01, 0, 0, 0xc3], Vec::new()),
            ("SSL_set_SSL_CTX", set_ctx, Vec::new()),
        ]
    }

    #[test]
    fn libressl_is_asked_as_openssl_is() {
        let elf = library(&libressl());
        assert_eq!(Family::of(&elf), Some(Family::LibreSsl));
        let learnt = learn(&elf);
        let layout = &learnt.layout;
        assert_eq!(layout.block(), Some(0x70));
        assert_eq!((layout.references, layout.sessions), (Some(0xd0), Some(0x40)));
        assert_eq!(layout.num_items, Some(0x38));
        assert_eq!((layout.ssl_to_ctx, layout.ssl_to_session_ctx), (Some(0x140), Some(0x150)));
        let gaps: Vec<String> = learnt.gaps.iter().map(|gap| gap.reason.to_string()).collect();
        assert_eq!(gaps, ["LibreSSL does not count handshakes of TLS 1.3"]);
    }

    #[test]
    fn without_its_own_functions_it_is_openssl() {
        let mut functions = libressl();
        functions.retain(|function| function.0 != "SSL_CTX_load_verify_mem");
        assert_eq!(Family::of(&library(&functions)), Some(Family::OpenSsl));
        functions.retain(|function| function.0 != "SSL_CTX_ctrl");
        assert_eq!(Family::of(&library(&functions)), None);
    }
}
