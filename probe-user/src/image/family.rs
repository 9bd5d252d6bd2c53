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
/// LibreSSL's own, since 2.5 (2016): no other library has them.
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
