//! What a run leaves when it is killed is removed by `clean`, and nothing else is.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use harness::{cluster::Cluster, run};

/// A rig in a process of its own, and its prefix once it is up.
struct Rig {
    child: Child,
    prefix: String,
}

impl Rig {
    fn up() -> Self {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/examples/two-nodes");
        let mut child = Command::new(env!("CARGO_BIN_EXE_ebb-rig"))
            .args(["up".as_ref(), examples.as_os_str()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("ebb-rig runs");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let up = lines
            .filter_map(|line| line.strip_prefix("up: ").map(str::to_owned))
            .next()
            .expect("it comes up");
        let prefix = up.split(',').next().expect("a prefix").to_owned();
        Self { child, prefix }
    }

    /// Namespaces, run directory and cgroups with the prefix.
    fn traces(&self) -> Vec<PathBuf> {
        let places =
            ["/run/netns", "/run/ebb", "/sys/fs/cgroup/cpuacct", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let entries = places.iter().filter_map(|place| fs::read_dir(place).ok()).flatten().flatten();
        let paths = entries.map(|entry| entry.path());
        paths.filter(|path| path.to_string_lossy().contains(&self.prefix)).collect()
    }

    /// Processes with the name of an app that are inside one of the run's namespaces.
    fn apps(&self) -> Vec<i32> {
        let inode = |path: PathBuf| {
            fs::metadata(path).ok().map(|metadata| std::os::unix::fs::MetadataExt::ino(&metadata))
        };
        let own: Vec<_> = self
            .traces()
            .into_iter()
            .filter(|path| path.starts_with("/run/netns"))
            .filter_map(inode)
            .collect();
        let pids = fs::read_dir("/proc").expect("/proc").flatten();
        let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
        pids.filter(|pid| {
            inode(format!("/proc/{pid}/ns/net").into()).is_some_and(|found| own.contains(&found))
        })
        .collect()
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_killed_run_is_cleaned_and_a_living_one_is_not_touched() {
    let living = Cluster::two_nodes().unwrap();
    let mut rig = Rig::up();
    let apps = rig.apps();
    assert_eq!(apps.len(), 5, "one process per pod of the example");
    assert!(!run::clean().unwrap().contains(&rig.prefix), "it still runs");
    assert_eq!(rig.apps(), apps);
    rig.child.kill().unwrap();
    rig.child.wait().unwrap();
    assert_eq!(rig.apps(), apps, "a kill takes no child along");
    assert!(rig.traces().len() > 7);
    // Another test, or another user of the machine, may clean at the same time; whoever does, it is gone afterwards.
    run::clean().unwrap();
    assert_eq!(rig.traces(), Vec::<PathBuf>::new());
    for pid in apps {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }
    living.node(0).add_pod("still-works").unwrap();
    assert!(living.node(0).namespace().path().exists());
}

#[test]
fn an_interrupted_rig_takes_itself_down() {
    let mut rig = Rig::up();
    let pid = nix::unistd::Pid::from_raw(rig.child.id().cast_signed());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while rig.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(rig.traces(), Vec::<PathBuf>::new());
}

#[test]
fn without_root_it_is_refused_and_not_skipped() {
    use std::os::unix::process::CommandExt;
    let nobody = 65534;
    let copy = std::env::temp_dir().join(format!("ebb-rig-{}", std::process::id()));
    fs::copy(env!("CARGO_BIN_EXE_ebb-rig"), &copy).unwrap();
    let output = Command::new(&copy).arg("up").uid(nobody).gid(nobody).current_dir("/").output().unwrap();
    fs::remove_file(&copy).unwrap();
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && words.contains("refused: "), "{words}");
}
