//! Tests behind a seccomp filter, as in containers: each in a process of its own, since a filter
//! cannot be taken off again.

use std::collections::BTreeMap;
use std::env;
use std::process::Command;

use loader_core::{Copier, Extent, Job, Operation, Report, Result, WeightFile};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter};

/// Runs the ignored test `name` of this program in a child process, with a variable set, and gives
/// what it said on standard error.
pub(crate) fn run_alone(name: &str, variable: (&str, String)) -> String {
    let child = Command::new(env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture", "--ignored"])
        .env(variable.0, variable.1)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout);
    let errors = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success(), "{output}\n{errors}");
    assert!(output.contains("1 passed"), "{output}\n{errors}");
    for line in output.lines().filter(|line| line.contains("skipped:")) {
        println!("{line}");
    }
    errors.into_owned()
}

/// Has system calls answer with an error from now on, in this thread and those that it starts;
/// `false` where no filter can be set.
pub(crate) fn forbid(calls: &[i64], errno: i32) -> bool {
    let rules: BTreeMap<_, _> = calls.iter().map(|call| (*call, Vec::new())).collect();
    let action = SeccompAction::Errno(errno.unsigned_abs());
    let architecture = env::consts::ARCH.try_into().unwrap();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, architecture).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    match seccompiler::apply_filter(&program) {
        Ok(()) => true,
        Err(error) => {
            println!("skipped: no seccomp filter can be set: {error}");
            false
        }
    }
}

/// Reads all of `file` into `memory`, which is as long.
pub(crate) fn read_all(
    copier: &Copier<'_>,
    file: &WeightFile,
    memory: &mut [u8],
) -> Result<Report> {
    let extent = Extent {
        offset: 0,
        len: file.len(),
        destination: 0,
    };
    let plan = copier.plan(&[extent], memory.len())?;
    let job = Job {
        file: file.clone(),
        plan,
        destination: memory.into(),
    };
    copier.run(vec![job], Operation::new())
}
