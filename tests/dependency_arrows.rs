//! Which crate may depend on which, as `docs/design.md` draws it, asked of cargo for every system.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::process::{Command, Output};

const LINUX: &str = "x86_64-unknown-linux-gnu";

/// Each kind of system, and the one crate that holds its mechanisms.
const SYSTEMS: [(&str, &str); 4] = [
    (LINUX, "loader-linux"),
    ("aarch64-linux-android", "loader-linux"),
    ("aarch64-apple-darwin", "loader-macos"),
    ("x86_64-pc-windows-gnu", "loader-windows"),
];

/// How far down a tree is looked at.
#[derive(Clone, Copy)]
enum Depth {
    Direct,
    Whole,
}

#[test]
fn core_needs_no_other_crate_of_the_workspace() {
    for (target, _) in SYSTEMS {
        let Some(found) = members_below("loader-core", target, Depth::Whole) else {
            return;
        };
        assert_eq!(found, names([]), "loader-core on {target}");
    }
}

#[test]
fn system_crates_need_core_alone_and_on_their_own_system_only() {
    for system_crate in ["loader-linux", "loader-macos", "loader-windows"] {
        for (target, own) in SYSTEMS {
            let Some(found) = members_below(system_crate, target, Depth::Whole) else {
                return;
            };
            let expected = if system_crate == own {
                names(["loader-core"])
            } else {
                names([])
            };
            assert_eq!(found, expected, "{system_crate} on {target}");
        }
    }
}

#[test]
fn formats_need_core_alone() {
    for (target, _) in SYSTEMS {
        let Some(found) = members_below("loader-formats", target, Depth::Whole) else {
            return;
        };
        assert_eq!(found, names(["loader-core"]), "loader-formats on {target}");
    }
}

#[test]
fn uploaders_of_devices_need_core_alone() {
    for (target, _) in SYSTEMS {
        let Some(found) = members_below("loader-vulkan", target, Depth::Whole) else {
            return;
        };
        assert_eq!(found, names(["loader-core"]), "loader-vulkan on {target}");
    }
}

#[test]
fn the_face_needs_core_formats_uploaders_and_the_crate_of_its_system() {
    for (target, own) in SYSTEMS {
        let expected = names(["loader-core", "loader-formats", "loader-vulkan", own]);
        for depth in [Depth::Direct, Depth::Whole] {
            let Some(found) = members_below("weightloader", target, depth) else {
                return;
            };
            assert_eq!(found, expected, "weightloader on {target}");
        }
    }
}

#[test]
fn the_program_and_the_c_interface_need_the_face_alone() {
    for package in ["loader-cli", "loader-ffi"] {
        for (target, _) in SYSTEMS {
            let Some(found) = members_below(package, target, Depth::Direct) else {
                return;
            };
            assert_eq!(found, names(["weightloader"]), "{package} on {target}");
        }
    }
}

#[test]
fn the_default_tree_on_linux_stays_small() {
    let Some(crates) = tree("weightloader", LINUX, Depth::Whole, &[]) else {
        return;
    };
    assert!(crates.len() < 45, "{} crates: {crates:#?}", crates.len());
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// The crates of this workspace that `package` depends on with all its features.
fn members_below(package: &str, target: &str, depth: Depth) -> Option<BTreeSet<String>> {
    let crates = tree(package, target, depth, &["--all-features"])?;
    let members = crates.into_iter().filter_map(|line| {
        let name = line.split(' ').next().unwrap_or_default();
        let member = name == "weightloader" || name.starts_with("loader-");
        (member && name != package).then(|| name.to_owned())
    });
    Some(members.collect())
}

/// The lines `name version` of `package` and what it is built from, or nothing where that cannot
/// be asked here.
fn tree(package: &str, target: &str, depth: Depth, more: &[&str]) -> Option<BTreeSet<String>> {
    let depth: &[&str] = match depth {
        Depth::Direct => &["--depth", "1"],
        Depth::Whole => &[],
    };
    let ask = |connection: &[&str]| {
        cargo(&[
            &["tree", "--locked", "--package", package, "--target", target],
            &[
                "--edges",
                "normal,build",
                "--prefix",
                "none",
                "--format",
                "{p}",
            ],
            depth,
            more,
            connection,
        ])
    };
    // What is there after a build may be enough; what other systems need may not have been
    // downloaded yet.
    let answer = ask(&["--offline"]).and_then(|answer| match answer.status.success() {
        true => Ok(answer),
        false => ask(&[]),
    });
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("skipped: cargo is not to be found");
            return None;
        }
        Err(error) if runs_under_wine() => {
            println!("skipped: cargo is not a Windows program here: {error}");
            return None;
        }
        Err(error) => panic!("cargo does not start: {error}"),
    };
    let complaint = String::from_utf8_lossy(&answer.stderr);
    if complaint.contains("failed to download") {
        println!("skipped: a dependency for {target} could not be downloaded");
        return None;
    }
    assert!(answer.status.success(), "cargo tree: {complaint}");

    let lines = String::from_utf8(answer.stdout).expect("package names are UTF-8");
    let crates: BTreeSet<String> = lines
        .lines()
        .filter(|line| !line.is_empty())
        .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
        .collect();
    assert!(
        crates.iter().any(|line| line.starts_with(package)),
        "the tree of {package} misses its root: {lines}"
    );
    Some(crates)
}

/// Whether this is a program for Windows that a Unix cargo started.
fn runs_under_wine() -> bool {
    let cargo = std::env::var("CARGO").unwrap_or_default();
    cfg!(windows) && cargo.starts_with('/')
}

fn cargo(arguments: &[&[&str]]) -> io::Result<Output> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    Command::new(cargo)
        .args(arguments.iter().copied().flatten())
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")))
        // Flags meant for the build, a sanitizer say, may not exist for another target.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
}
