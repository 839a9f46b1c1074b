//! A real directory, watched; every test waits for what it expects and none sleeps to see that nothing happens.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::snapshot::publish::Reader;
use crate::snapshot::{MeshSettings, Snapshot};
use crate::source::apply;

/// Longer than any wait here should take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

struct Rig {
    home: tempfile::TempDir,
    path: PathBuf,
    reader: Reader,
    running: Running,
}

impl Rig {
    fn start(prepare: impl FnOnce(&Path)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("mesh");
        fs::create_dir(&path).unwrap();
        prepare(&path);
        let (batches, reader) = apply(MeshSettings::default()).unwrap();
        let source = FileSource::new(&path).remembering(home.path().join("state/n1.last-good"));
        let running = source.run(batches).unwrap();
        Self { home, path, reader, running }
    }

    /// Ends the process and starts another one, with `meanwhile` in between.
    async fn restart(self, meanwhile: impl FnOnce(&Path)) -> Self {
        let Self { home, path, running, .. } = self;
        let mut status = running.status();
        drop(running);
        // Its thread owns the other end.
        let ended = async { while status.changed().await.is_ok() {} };
        tokio::time::timeout(PATIENCE, ended).await.expect("the source goes on");
        meanwhile(&path);
        let (batches, reader) = apply(MeshSettings::default()).unwrap();
        let source = FileSource::new(&path).remembering(home.path().join("state/n1.last-good"));
        let running = source.run(batches).unwrap();
        Self { home, path, reader, running }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path.join(name), text).unwrap();
    }

    /// Waits until a snapshot is as expected.
    async fn until(&self, what: &str, expected: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let mut reader = self.reader.clone();
        let wait = async {
            let mut now = reader.current();
            while !expected(&now) {
                now = reader.changed().await;
            }
            now
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"))
    }

    async fn until_status(&self, what: &str, expected: impl FnMut(&Status) -> bool) -> Status {
        let mut status = self.running.status();
        let wait = status.wait_for(expected);
        let found = tokio::time::timeout(PATIENCE, wait).await;
        found.unwrap_or_else(|_| panic!("never: {what}")).unwrap().clone()
    }
}

fn pod(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}\n  namespace: shop\nstatus:\n  podIP: {address}\n"
    )
}

fn policy(name: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  namespace: shop\nspec: {{}}\n"
    )
}

fn pods(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.workloads().map(|it| &*it.name).collect()
}

#[tokio::test]
async fn files_are_read_followed_and_forgotten() {
    let rig = Rig::start(|path| {
        fs::write(path.join("a.yaml"), pod("a", "10.0.0.1")).unwrap();
        fs::write(path.join(".hidden.yaml"), pod("hidden", "10.0.0.8")).unwrap();
        fs::write(path.join("notes.txt"), pod("notes", "10.0.0.9")).unwrap();
        fs::create_dir(path.join("deeper.yaml.d")).unwrap();
    });
    let first = rig.until("the first file", |it| it.generation() > 0).await;
    assert_eq!(pods(&first), ["a"]);
    rig.write("b.yml", &pod("b", "10.0.0.2"));
    rig.until("a new file", |it| pods(it) == ["a", "b"]).await;
    rig.write("b.yml", &pod("c", "10.0.0.2"));
    rig.until("a changed file", |it| pods(it) == ["a", "c"]).await;
    fs::rename(rig.path.join("b.yml"), rig.path.join("d.yaml")).unwrap();
    let json = "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"e\", \"namespace\": \"shop\"}, \"status\": \
                {\"podIP\": \"10.0.0.5\"}}";
    rig.write("e.json", json);
    rig.until("a renamed file", |it| pods(it) == ["a", "c", "e"]).await;
    fs::remove_file(rig.path.join("a.yaml")).unwrap();
    rig.until("a deleted file", |it| pods(it) == ["c", "e"]).await;
    let status = rig.until_status("two files", |it| it.items == 2).await;
    assert!(status.first_read && status.awaiting.is_none() && status.current_at.is_some());
}

#[tokio::test]
async fn a_directory_missing_at_the_very_first_start_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("file"), "").unwrap();
    for name in ["absent", "file"] {
        let (batches, _reader) = apply(MeshSettings::default()).unwrap();
        let path = home.path().join(name);
        let source = FileSource::new(&path).remembering(home.path().join("state/n1.last-good"));
        let refused = source.run(batches).expect_err(name).to_string();
        assert!(refused.contains(path.to_str().unwrap()), "{refused}");
    }
}

#[tokio::test]
async fn an_empty_directory_is_read_and_one_missing_at_a_later_start_awaited() {
    let rig = Rig::start(|_| {});
    let empty = rig.until("the empty directory", |it| it.generation() > 0).await;
    assert_eq!(empty.workloads().count(), 0);
    rig.write("p.yaml", &policy("p"));
    rig.until_status("the policy", |it| it.items == 1).await;
    let late = rig.restart(|path| fs::remove_dir_all(path).unwrap()).await;
    let status = late.until_status("its absence", |it| it.awaiting.is_some()).await;
    assert!(!status.first_read);
    assert_eq!(late.reader.current().generation(), 0);
    fs::create_dir(&late.path).unwrap();
    late.write("a.yaml", &pod("a", "10.0.0.1"));
    late.until("the directory that came late", |it| pods(it) == ["a"]).await;
    late.until_status("the directory", |it| it.first_read && it.awaiting.is_none()).await;
}

#[tokio::test]
async fn a_broken_file_keeps_all_it_stated_and_denies_nobody_it_did_not() {
    let good = pod("a", "10.0.0.1") + &policy("p") + &policy("q");
    let rig = Rig::start(|path| fs::write(path.join("a.yaml"), &good).unwrap());
    rig.until("the file", |it| it.policies().count() == 2).await;
    for broken in [
        good[..good.len() - 60].to_owned() + "\nmetadata: [",
        pod("b", "10.0.0.2") + "---\n{{{\n",
        "\0\0\0".to_owned(),
        String::new(),
        "  \n".to_owned(),
    ] {
        rig.write("a.yaml", &broken);
        let now = rig.until("its rejection", |it| !it.rejected().is_empty()).await;
        assert_eq!(now.policies().count(), 2, "after {broken:?}");
        assert!(pods(&now).contains(&"a"));
        assert_eq!(now.unknown_policies(), [] as [Arc<str>; 0], "after {broken:?}");
        assert!(now.rejected().iter().all(|it| &*it.origin.file == "a.yaml"));
        rig.write("a.yaml", &good);
        rig.until("the good file again", |it| it.rejected().is_empty() && pods(it) == ["a"]).await;
    }
}

#[tokio::test]
async fn a_config_map_is_followed_through_its_links() {
    let volume = |path: &Path, version: &str, text: &str| {
        let data = path.join(format!("..{version}"));
        fs::create_dir(&data).unwrap();
        fs::write(data.join("mesh.yaml"), text).unwrap();
        std::os::unix::fs::symlink(format!("..{version}"), path.join("..data_tmp")).unwrap();
        fs::rename(path.join("..data_tmp"), path.join("..data")).unwrap();
    };
    let rig = Rig::start(|path| {
        volume(path, "1", &pod("a", "10.0.0.1"));
        std::os::unix::fs::symlink("..data/mesh.yaml", path.join("mesh.yaml")).unwrap();
    });
    rig.until("the first version", |it| pods(it) == ["a"]).await;
    volume(&rig.path, "2", &pod("b", "10.0.0.1"));
    rig.until("the second version", |it| pods(it) == ["b"]).await;
    fs::remove_dir_all(rig.path.join("..1")).unwrap();
    volume(&rig.path, "3", &pod("c", "10.0.0.1"));
    rig.until("the third version", |it| pods(it) == ["c"]).await;
}

#[tokio::test]
async fn a_removed_directory_takes_nothing_with_it() {
    let rig = Rig::start(|path| fs::write(path.join("a.yaml"), pod("a", "10.0.0.1")).unwrap());
    rig.until("the file", |it| pods(it) == ["a"]).await;
    fs::rename(&rig.path, rig.path.with_extension("away")).unwrap();
    rig.until_status("its absence", |it| it.awaiting.is_some()).await;
    assert_eq!(pods(&rig.reader.current()), ["a"]);
    // Another directory, not filled yet, as when a volume is mounted late.
    fs::create_dir(&rig.path).unwrap();
    rig.until_status("the other directory", |it| it.awaiting.is_none()).await;
    assert_eq!(pods(&rig.reader.current()), ["a"]);
    rig.write("b.yaml", &pod("b", "10.0.0.2"));
    let now = rig.until("its first file", |it| pods(it).contains(&"b")).await;
    assert_eq!(pods(&now), ["a", "b"], "files it lacks are given time to appear");
    rig.until("that time is over", |it| pods(it) == ["b"]).await;
}

#[tokio::test]
async fn a_directory_that_was_away_for_a_moment_is_watched_as_before() {
    let rig = Rig::start(|path| fs::write(path.join("a.yaml"), pod("a", "10.0.0.1")).unwrap());
    rig.until("the file", |it| pods(it) == ["a"]).await;
    for round in 0..5 {
        let away = rig.path.with_extension("away");
        fs::rename(&rig.path, &away).unwrap();
        fs::rename(&away, &rig.path).unwrap();
        rig.write("a.yaml", &pod(&format!("r{round}"), "10.0.0.1"));
        let read = rig.until("the change", |it| pods(it) == [format!("r{round}")]);
        // Without the watch it would be read at the next look at everything.
        let soon = tokio::time::timeout(RESYNC / 3, read).await;
        assert!(soon.is_ok(), "nobody watches any more, in round {round}");
        // Once more in peace, for the watch that the look above may have begun.
        rig.write("a.yaml", &pod("again", "10.0.0.1"));
        let read = rig.until("another change", |it| pods(it) == ["again"]);
        assert!(tokio::time::timeout(RESYNC / 3, read).await.is_ok(), "nobody watches, after round {round}");
    }
}

#[tokio::test]
async fn a_file_is_not_read_while_it_is_being_written() {
    use std::io::Write as _;
    let whole = policy("p") + &policy("q");
    let rig = Rig::start(|path| fs::write(path.join("a.yaml"), &whole).unwrap());
    rig.until("the file", |it| it.policies().count() == 2).await;
    let mut file = fs::File::create(rig.path.join("a.yaml")).unwrap();
    file.write_all(policy("p").as_bytes()).unwrap();
    // What is written elsewhere is seen all the same; both wait for the same quiet.
    rig.write("b.yaml", &pod("b", "10.0.0.2"));
    let between = rig.until("another file", |it| pods(it) == ["b"]).await;
    assert_eq!(between.policies().count(), 2, "half a file was taken for the whole");
    file.write_all(policy("r").as_bytes()).unwrap();
    drop(file);
    let after = rig.until("the file when closed", |it| it.policies().any(|it| &*it.object.name == "r")).await;
    assert_eq!(after.policies().count(), 2);
}

#[tokio::test]
async fn a_policy_that_breaks_between_two_processes_keeps_its_last_good_version() {
    let good = policy("p") + &policy("q");
    for broken in [
        good.replace("spec: {}", "spec: {rulez: []}"),
        good[..good.len() - 12].to_owned() + "[",
        String::new(),
    ] {
        let rig = Rig::start(|path| {
            fs::write(path.join("a.yaml"), pod("a", "10.0.0.1")).unwrap();
            fs::write(path.join("p.yaml"), &good).unwrap();
        });
        rig.until("the files", |it| it.policies().count() == 2 && pods(it) == ["a"]).await;
        let rig = rig.restart(|path| fs::write(path.join("p.yaml"), &broken).unwrap()).await;
        let now = rig.until("the rejection", |it| !it.rejected().is_empty()).await;
        assert_eq!(now.policies().count(), 2, "after {broken:?}");
        assert!(now.rejected().iter().all(|it| it.last_good), "after {broken:?}");
        assert_eq!(now.unknown_policies(), [] as [Arc<str>; 0], "after {broken:?}");
        // And once more, with nothing repaired in between.
        let rig = rig.restart(|_| {}).await;
        let now = rig.until("the rejection again", |it| !it.rejected().is_empty()).await;
        assert_eq!((now.policies().count(), now.unknown_policies().len()), (2, 0), "after {broken:?}");
        rig.write("p.yaml", &policy("q"));
        rig.until("the repair", |it| it.rejected().is_empty() && it.policies().count() == 1).await;
    }
}

/// More than is handed on at once, of which one is withdrawn in the file that states the others still.
#[tokio::test]
async fn a_policy_that_was_taken_out_while_nobody_looked_is_gone_after_the_start() {
    const MANY: usize = 3 * directory::MAX_PART;
    let stated = |many: usize| (0..many).map(|number| policy(&format!("p{number}"))).collect::<String>();
    let rig = Rig::start(|path| fs::write(path.join("a.yaml"), stated(MANY)).unwrap());
    rig.until("the file", |it| it.policies().count() == MANY).await;
    let rig = rig.restart(|path| fs::write(path.join("a.yaml"), stated(MANY - 1)).unwrap()).await;
    rig.until_status("the file", |it| it.first_read).await;
    rig.write("b.yaml", &pod("later", "10.0.0.1"));
    let now = rig.until("what came after it", |it| !pods(it).is_empty()).await;
    assert_eq!(now.policies().count(), MANY - 1);
}

#[tokio::test]
async fn a_directory_with_nothing_in_it_at_the_start_takes_no_kept_policy_away() {
    let rig = Rig::start(|path| {
        fs::write(path.join("a.yaml"), pod("a", "10.0.0.1")).unwrap();
        fs::write(path.join("p.yaml"), policy("p")).unwrap();
    });
    rig.until("the files", |it| it.policies().count() == 1).await;
    let unmounted = |path: &Path| {
        fs::rename(path, path.with_extension("away")).unwrap();
        fs::create_dir(path).unwrap();
        // As some volumes are prepared.
        fs::write(path.join("placeholder.yaml"), "").unwrap();
    };
    let rig = rig.restart(unmounted).await;
    rig.until_status("the first look", |it| it.first_read).await;
    let now = rig.until("the kept policy", |it| it.policies().count() == 1).await;
    assert_eq!(pods(&now), [] as [&str; 0]);
    // And again, with nothing mounted in between.
    let rig = rig.restart(|_| {}).await;
    rig.until("the kept policy again", |it| it.policies().count() == 1).await;
    rig.write("b.yaml", &pod("b", "10.0.0.2"));
    let now = rig.until("the first document", |it| pods(it) == ["b"]).await;
    assert_eq!(now.policies().count(), 1, "files it lacks are given time to appear");
    rig.until("that time is over", |it| it.policies().count() == 0).await;
}

#[tokio::test]
async fn a_policy_deleted_between_two_processes_is_gone_for_good() {
    let rig = Rig::start(|path| {
        fs::write(path.join("a.yaml"), pod("a", "10.0.0.1")).unwrap();
        fs::write(path.join("p.yaml"), policy("p")).unwrap();
    });
    rig.until("the policy", |it| it.policies().count() == 1).await;
    let rig = rig.restart(|path| fs::remove_file(path.join("p.yaml")).unwrap()).await;
    let now = rig.until("the look", |it| it.generation() > 0).await;
    assert_eq!(now.policies().count(), 0);
    let rig = rig.restart(|path| fs::write(path.join("p.yaml"), policy("p") + "  x: [").unwrap()).await;
    let now = rig.until("what cannot be read", |it| !it.rejected().is_empty()).await;
    assert_eq!((now.policies().count(), now.unknown_policies().len()), (0, 1), "nobody knows what it says");
}

#[tokio::test]
async fn what_cannot_be_read_is_named_and_denies_whom_it_may_concern() {
    let rig = Rig::start(|path| {
        fs::write(path.join("a.yaml"), pod("a", "10.0.0.1")).unwrap();
        let huge = fs::File::create(path.join("huge.yaml")).unwrap();
        huge.set_len(1 << 30).unwrap();
        nix::unistd::mkfifo(&path.join("pipe.yaml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        std::os::unix::fs::symlink("nowhere", path.join("dangling.yaml")).unwrap();
    });
    let now = rig.until("all files", |it| it.generation() > 0).await;
    assert_eq!(pods(&now), ["a"]);
    let named: Vec<_> = now.rejected().iter().map(|it| (&*it.origin.file, it.guards_access)).collect();
    assert_eq!(named, [("dangling.yaml", true), ("huge.yaml", true), ("pipe.yaml", true)]);
    fs::remove_file(rig.path.join("dangling.yaml")).unwrap();
    fs::remove_file(rig.path.join("pipe.yaml")).unwrap();
    let now = rig.until("their removal", |it| it.rejected().len() == 1).await;
    assert_eq!(now.unknown_policies().len(), 1, "nobody looked through all of what is huge");
    fs::remove_file(rig.path.join("huge.yaml")).unwrap();
    let now = rig.until("its removal", |it| it.rejected().is_empty()).await;
    assert!(now.unknown_policies().is_empty());
}

#[tokio::test]
async fn a_busy_directory_ends_up_read_as_it_is() {
    let rig = Rig::start(|_| {});
    for i in 0..3000_u32 {
        rig.write(
            &format!("p{i}.yaml"),
            &pod(&format!("p{i}"), &format!("10.1.{}.{}", i / 250, i % 250 + 1)),
        );
    }
    for i in (0..3000_u32).step_by(2) {
        fs::remove_file(rig.path.join(format!("p{i}.yaml"))).unwrap();
    }
    rig.until("every file", |it| {
        it.workloads().count() == 1500 && it.workload("Kubernetes//Pod/shop/p2999").is_some()
    })
    .await;
}

#[tokio::test]
async fn json_that_is_no_manifest_is_passed_over_and_what_a_manifest_stated_stays_when_it_turns_into_such() {
    let policy = "{\"apiVersion\": \"security.istio.io/v1\", \"kind\": \"AuthorizationPolicy\", \"metadata\": {\"name\": \"p\", \
                  \"namespace\": \"shop\"}, \"spec\": {}}";
    let rig = Rig::start(|path| {
        fs::write(path.join("package.json"), "[\"AuthorizationPolicy\", \"istio.io/use-waypoint\"]").unwrap();
        fs::create_dir(path.join("folder.json")).unwrap();
        fs::write(path.join("p.json"), policy).unwrap();
    });
    let now = rig.until("the policy", |it| it.policies().count() == 1).await;
    assert_eq!(now.rejected().len(), 0, "{:?}", now.rejected());
    rig.write("p.json", "[1]");
    let now = rig.until("the fault", |it| it.rejected().len() == 1).await;
    assert_eq!(now.policies().count(), 1);
    assert!(now.rejected()[0].last_good);
    fs::remove_file(rig.path.join("p.json")).unwrap();
    rig.until("nothing", |it| it.rejected().is_empty() && it.policies().count() == 0).await;
}

/// A source that a test drives by hand, without its thread.
fn driven(path: &Path) -> (Worker, Running, mpsc::Receiver<Batch>) {
    let (sender, batches) = mpsc::channel(16);
    let (worker, running) = FileSource::new(path).prepare(sender).unwrap();
    (worker, running, batches)
}

fn soon() -> Instant {
    Instant::now() + QUIET
}

#[test]
fn thousands_of_files_at_the_start_are_read_once() {
    let home = tempfile::tempdir().unwrap();
    for i in 0..5000 {
        fs::write(home.path().join(format!("p{i}.yaml")), pod(&format!("p{i}"), "")).unwrap();
    }
    let (mut worker, running, mut batches) = driven(home.path());
    assert!(worker.scan(Instant::now()).is_ok_and(|next| next.is_some()));
    let parts: Vec<Batch> = std::iter::from_fn(|| batches.try_recv().ok()).collect();
    assert_eq!(parts.iter().map(|it| it.upserts.len()).sum::<usize>(), 5000);
    let (last, others) = parts.split_last().unwrap();
    assert!(!last.more && others.len() == 4 && others.iter().all(|it| it.more));
    let current_at = running.status().borrow().current_at;
    // Whatever the kernel had to tell of that reading is heard now.
    assert!(worker.gather(soon()).is_ok());
    assert!(!worker.waiting.everything() && worker.waiting.next_due().is_none());
    assert!(worker.refresh(Instant::now()).is_ok_and(|next| next.is_none()));
    assert_eq!(running.status().borrow().current_at, current_at, "nothing was looked at");
}

#[tokio::test]
async fn what_is_there_at_the_start_is_published_as_a_whole_however_many_parts_it_has() {
    let count = 3 * directory::MAX_PART;
    let rig = Rig::start(|path| {
        let pods: String = (0..count).map(|i| pod(&format!("p{i}"), "")).collect();
        fs::write(path.join("a.yaml"), pods).unwrap();
        fs::write(path.join("b.yaml"), "{{{").unwrap();
        fs::write(path.join("z.yaml"), policy("p")).unwrap();
    });
    let first = rig.until("the first of all", |it| it.generation() > 0).await;
    assert_eq!(first.generation(), 1);
    assert_eq!((first.workloads().count(), first.policies().count()), (count, 1));
    assert_eq!(first.rejected().len(), 1);
}

#[test]
fn events_that_the_kernel_drops_lead_to_a_look_at_everything_and_a_new_watch() {
    use std::os::unix::fs::PermissionsExt as _;
    let home = tempfile::tempdir().unwrap();
    let files = ["a.yaml", "b.yaml"].map(|name| home.path().join(name));
    for file in &files {
        fs::write(file, pod("a", "")).unwrap();
    }
    let (mut worker, _running, mut batches) = driven(home.path());
    assert!(worker.scan(Instant::now()).is_ok());
    assert!(batches.try_recv().is_ok());
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
    // The kernel makes one of equal events in a row, so they alternate.
    for i in 0..limit.trim().parse::<usize>().unwrap() + 2 {
        fs::set_permissions(&files[i % 2], fs::Permissions::from_mode(0o600)).unwrap();
    }
    fs::write(home.path().join("late.yaml"), pod("late", "")).unwrap();
    assert!(worker.gather(soon()).is_ok());
    assert!(worker.waiting.everything() && worker.moved);
    assert!(worker.scan(Instant::now()).is_ok());
    assert_eq!(batches.try_recv().unwrap().upserts.len(), 1, "the file whose events were lost");
    assert!(!worker.moved);
    fs::write(home.path().join("later.yaml"), pod("later", "")).unwrap();
    assert!(worker.gather(soon()).is_ok());
    assert!(worker.waiting.next_due().is_some(), "nobody watches");
}

#[test]
fn a_source_that_is_dropped_ends_while_it_waits() {
    let home = tempfile::tempdir().unwrap();
    let (mut worker, running, _batches) = driven(home.path());
    assert!(worker.scan(Instant::now()).is_ok());
    drop(running);
    assert!(worker.gather(Instant::now() + PATIENCE).is_err());
}
