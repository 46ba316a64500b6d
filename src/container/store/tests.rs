use super::*;
use proptest::prelude::*;
use std::time::Duration;

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(dir.path().join("root"));
    (dir, store)
}

#[test]
fn an_id_is_given_once() {
    let (_dir, store) = store();
    let entry = store.reserve("a.b_c-1+2").unwrap().0;
    assert_eq!(entry.id(), "a.b_c-1+2");
    assert_eq!(store.reserve("a.b_c-1+2").unwrap_err().kind(), Kind::Exists);
    assert_eq!(store.all().unwrap(), std::slice::from_ref(&entry));
    entry.remove().unwrap();
    entry.remove().unwrap();
    assert_eq!(store.find("a.b_c-1+2").unwrap_err().kind(), Kind::NoContainer);
}

#[test]
fn what_is_alike_is_one_file_until_one_gets_another() {
    let (_dir, store) = store();
    let entries = ["one", "two", "three", "four"].map(|id| store.reserve(id).unwrap().0);
    let [one, two, three, four] = &entries;
    let about = |entry: &Entry| fs::metadata(entry.config()).unwrap();
    let mut last = None;
    one.write_alike("config.json", b"{}", &mut last).unwrap();
    two.write_alike("config.json", b"{}", &mut last).unwrap();
    assert_eq!((about(one).ino(), about(one).nlink()), (about(two).ino(), 2));
    one.write("config.json", b"[]").unwrap();
    assert_eq!(fs::read(two.config()).unwrap(), b"{}");
    // There is none left to link to.
    two.remove().unwrap();
    three.write_alike("config.json", b"{}", &mut last).unwrap();
    four.write_alike("config.json", b"{}", &mut last).unwrap();
    assert_eq!((about(three).ino(), about(four).nlink()), (about(four).ino(), 2));
    assert_eq!(fs::read(four.config()).unwrap(), b"{}");
    // One that has that file already: it is written anew.
    four.write_alike("config.json", b"[1]", &mut last).unwrap();
    assert_eq!((fs::read(three.config()).unwrap(), fs::read(four.config()).unwrap()), (b"{}".into(), b"[1]".into()));
}

#[test]
fn malformed_ids_are_refused_everywhere() {
    let (_dir, store) = store();
    for id in ["", ".", "..", "a/b", "/", "a b", "a\n", "ä", "a\0", &"x".repeat(1025)] {
        assert_eq!(store.reserve(id).unwrap_err().kind(), Kind::Usage, "{id:?}");
        assert_eq!(store.find(id).unwrap_err().kind(), Kind::Usage, "{id:?}");
    }
    assert!(store.all().unwrap().is_empty());
}

#[test]
fn one_at_a_time_has_the_lock() {
    const SOON: Duration = Duration::from_millis(20);
    let (_dir, store) = store();
    let entry = store.reserve("x").unwrap().0;
    let lock = entry.try_lock().unwrap().unwrap();
    assert!(entry.try_lock().unwrap().is_none());
    assert!(matches!(entry.lock_within(SOON).unwrap(), Locking::Busy));
    let wait = || {
        let entry = entry.clone();
        std::thread::spawn(move || entry.lock_within(Duration::from_secs(10)).unwrap())
    };
    let waiting = wait();
    lock.release();
    assert!(matches!(waiting.join().unwrap(), Locking::Locked(_)));
    entry.remove().unwrap();
    assert!(entry.try_lock().unwrap().is_none());
    assert!(matches!(entry.lock_within(SOON).unwrap(), Locking::Gone));
}

/// Who waited for the lock of a container has no right to the next one of that name.
#[test]
fn a_lock_is_of_one_container() {
    let (_dir, store) = store();
    let entry = store.reserve("x").unwrap().0;
    let lock = entry.try_lock().unwrap().unwrap();
    let before = entry.open().unwrap().unwrap();
    entry.remove().unwrap();
    let next = store.reserve("x").unwrap().0;
    lock.release();
    assert!(Lock::of(before).unwrap().is_none());
    assert!(next.try_lock().unwrap().is_some());
}

#[test]
fn who_looks_whether_it_is_locked_is_not_taken_for_who_makes_it() {
    let (_dir, store) = store();
    let (entry, lock) = store.reserve("x").unwrap();
    assert!(entry.is_locked().unwrap());
    lock.release();
    let looks = entry.open().unwrap().unwrap();
    sys_fs::lock(looks.as_raw_fd(), libc::LOCK_SH).unwrap();
    assert!(!entry.is_locked().unwrap());
    assert!(entry.try_lock().unwrap().is_none());
    // The looking ends once it is waited for, or some time before.
    let waits = std::thread::spawn({
        let entry = entry.clone();
        move || entry.lock_new()
    });
    drop(looks);
    waits.join().unwrap().unwrap();
}

#[test]
fn who_makes_what_is_deleted_at_once_leaves_nothing() {
    let (_dir, store) = store();
    let (entry, deletes) = store.reserve("x").unwrap();
    let makes = std::thread::spawn({
        let entry = entry.clone();
        move || entry.lock_new()
    });
    fs::remove_dir(entry.path()).unwrap();
    drop(deletes);
    assert!(makes.join().unwrap().unwrap_err().to_string().contains("is deleted while it is being created"));
    assert!(!entry.path().exists());
}

/// Whose directory is deleted and made again before he locks it: by who has made his container there since, or is about to.
#[test]
fn who_comes_late_leaves_the_container_of_another() {
    let (_dir, store) = store();
    let (entry, first) = store.reserve("x").unwrap();
    fs::write(entry.path().join("state.json"), "{}").unwrap();
    let late = std::thread::spawn({
        let entry = entry.clone();
        move || entry.lock_new()
    });
    drop(first);
    assert_eq!(late.join().unwrap().unwrap_err().kind(), Kind::Exists);
    assert_eq!(entry.lock_new().unwrap_err().kind(), Kind::Exists);
}

#[test]
fn a_damaged_state_says_what_to_do() {
    let (_dir, store) = store();
    let entry = store.reserve("x").unwrap().0;
    for text in ["", "{", "{\"id\":", "null", "[]"] {
        entry.write("state.json", text.as_bytes()).unwrap();
        assert!(entry.load().unwrap_err().to_string().contains("delete --force x"));
        assert_eq!(entry.status(None).unwrap(), (Status::Creating, None));
    }
}

#[test]
fn a_recorded_process_is_told_from_its_successor() {
    let (_dir, store) = store();
    let entry = store.reserve("x").unwrap().0;
    let own = Process::of(process::getpid()).unwrap();
    entry.record(own).unwrap();
    assert_eq!(entry.status(None).unwrap(), (Status::Running, Some(own)));
    fs::remove_file(entry.path().join("init")).unwrap();
    entry.record(Process { start_time: own.start_time + 1, ..own }).unwrap();
    assert_eq!(entry.status(None).unwrap(), (Status::Stopped, None));
    fs::remove_file(entry.path().join("init")).unwrap();
    symlink("12 ", entry.path().join("init")).unwrap();
    assert_eq!(entry.init().unwrap(), None);
}

/// Any state; what it says of cgroups is in the middle.
fn states() -> impl Strategy<Value = State> {
    let path = || any::<String>().prop_map(|path| PathBuf::from(format!("/{path}")));
    let v1 = prop::collection::btree_map("[a-z=]{1,9}", path(), 0..4);
    let handle = (prop::option::of(path()), v1).prop_map(|(unified, v1)| Handle {
        driver: crate::cgroup::Driver::Cgroupfs,
        unit: None,
        unified,
        v1,
    });
    let annotations = prop::collection::btree_map(any::<String>(), any::<String>(), 0..4);
    (any::<String>(), path(), handle, annotations, any::<u32>(), any::<[bool; 2]>()).prop_map(
        |(id, bundle, cgroup, annotations, owner, [no_new_keyring, shares_pids])| State {
            oci_version: id.clone(),
            rootfs: bundle.join(&id),
            created: id.clone(),
            id,
            bundle,
            owner,
            annotations,
            cgroup,
            resctrl: None,
            no_new_keyring,
            shares_pids,
            stdio: None,
            own_time: false,
            network_of_pool: false,
            resources: None,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What is recorded of init is read again, and whatever else is there is nobody.
    #[test]
    fn an_init_record_is_a_process_or_nobody(
        pid in 1..=i32::MAX, start_time in any::<u64>(), text in "[^\0]{1,60}|-?[0-9]{1,12} -?[0-9]{1,22}( [^\0]*)?"
    ) {
        let (_dir, store) = store();
        let entry = store.reserve("a").unwrap().0;
        entry.record(Process { pid, start_time }).unwrap();
        prop_assert_eq!(entry.init().unwrap(), Some(Process { pid, start_time }));
        fs::remove_file(entry.path().join("init")).unwrap();
        symlink(&text, entry.path().join("init")).unwrap();
        let init = entry.init().unwrap();
        prop_assert!(init.is_none_or(|init| init.pid > 0), "{text:?}: {init:?}");
        let (status, alive) = entry.status(None).unwrap();
        prop_assert!(matches!((status, alive), (Status::Creating | Status::Stopped | Status::Running, _)));
    }

    /// A state is read as it was written; cut short or damaged it is another or one sentence, and the container is in
    /// the list of all and can be removed.
    #[test]
    fn a_state_is_whole_or_told(state in states(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let (_dir, store) = store();
        let entry = store.reserve("a").unwrap().0;
        entry.save(&state).unwrap();
        prop_assert_eq!(&entry.load().unwrap(), &state);
        let whole = fs::read(entry.path().join("state.json")).unwrap();
        let at = at.index(whole.len());
        let mut damaged = whole.clone();
        damaged[at] = byte;
        for text in [&whole[..at], &damaged] {
            fs::write(entry.path().join("state.json"), text).unwrap();
            if let Err(error) = entry.load() {
                prop_assert!(!error.to_string().contains('\n'), "{error}");
            }
            prop_assert_eq!(store.all().unwrap().len(), 1);
        }
        entry.remove().unwrap();
        prop_assert!(store.all().unwrap().is_empty());
    }
}
