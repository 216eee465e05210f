//! Reading the configuration again: when its file or the certificate's change, and on SIGHUP.
//!
//! The files are looked at once a second instead of being watched by the kernel: that sees editors that rename, mounts
//! that swap links (Kubernetes) and network file systems alike. A file that does not check out changes nothing.
//!
//! Not here: what a new configuration does (`apps`).

use super::check::development_stays_home;
use super::{Config, Source};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, SystemTime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tracing::{info, warn};

/// How often the files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Starts watching; each configuration that comes out has been checked, and differs from `running` in its apps only.
/// What is fixed at the start (addresses, loops, timeouts) stays as it runs, with a warning where the file disagrees.
///
/// Ends when the receiver is dropped. Fails where the system refuses a signal handler.
pub fn watch(source: Source, running: Config) -> std::io::Result<mpsc::Receiver<Config>> {
    let (sender, receiver) = mpsc::channel(1);
    let watcher = Watcher {
        settled: Fingerprint::of(&source, &running),
        source,
        running,
        hangup: signal(SignalKind::hangup())?,
        looks: looks(),
    };
    tokio::spawn(watcher.run(sender));
    Ok(receiver)
}

fn looks() -> Interval {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks
}

struct Watcher {
    source: Source,
    running: Config,
    /// The files as they were when last read.
    settled: Fingerprint,
    hangup: Signal,
    looks: Interval,
}

impl Watcher {
    async fn run(mut self, sender: mpsc::Sender<Config>) {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                () = self.due() => {}
            }
            if let Some(config) = self.reread()
                && sender.send(config).await.is_err()
            {
                return;
            }
        }
    }

    /// Waits until the file should be read again.
    async fn due(&mut self) {
        let mut glimpsed = None;
        loop {
            tokio::select! {
                Some(()) = self.hangup.recv() => break,
                _ = self.looks.tick() => {}
            }
            // Seen alike twice: a file that is still being written could check out and lack half of its apps.
            let now = Fingerprint::of(&self.source, &self.running);
            if now != self.settled && glimpsed.as_ref() == Some(&now) {
                break;
            }
            glimpsed = Some(now);
        }
        self.settled = Fingerprint::of(&self.source, &self.running);
    }

    fn reread(&mut self) -> Option<Config> {
        let checked = self.source.load().map_err(|error| error.to_string());
        match checked.and_then(|new| self.keep_fixed(new)) {
            Ok(config) => {
                info!(apps = config.apps.len(), "configuration read again");
                self.running = config.clone();
                Some(config)
            }
            Err(error) => {
                warn!(error, "new configuration refused; the old one stays");
                None
            }
        }
    }

    /// The new apps in the house that is running.
    fn keep_fixed(&self, new: Config) -> Result<Config, String> {
        let redis = match (&self.running.redis, &new.redis) {
            (Some(old), Some(new)) => Some(old.with_servers_of(new)),
            (old, _) => old.clone(),
        };
        let kept = Config { apps: new.apps.clone(), dev: new.dev, redis, ..self.running.clone() };
        if kept.redis != new.redis {
            warn!(
                "the Redis servers stay as they are: only `servers` with `partitioned = true` from the start can be changed while running; \
                 otherwise stop all nodes, and start them with the new ones"
            );
        } else if kept != new {
            warn!(
                "only apps, their limits and partitioned Redis servers can be changed while running; the rest takes a restart"
            );
        }
        // The file may have moved to another address together with its credentials, but the socket has not.
        development_stays_home(&kept)?;
        Ok(kept)
    }
}

/// Enough of the files that are read to tell that one of them is another or has been written.
#[derive(Debug, PartialEq, Eq)]
struct Fingerprint([Option<Facts>; 3]);

/// Device, inode, length, time of the last change.
type Facts = (u64, u64, u64, Option<SystemTime>);

impl Fingerprint {
    fn of(source: &Source, running: &Config) -> Fingerprint {
        let tls = running.tls.as_ref();
        let files = [source.file(), tls.map(|tls| tls.cert.as_path()), tls.map(|tls| tls.key.as_path())];
        let facts = |m: Metadata| (m.dev(), m.ino(), m.len(), m.modified().ok());
        Fingerprint(files.map(|file| std::fs::metadata(file?).ok().map(facts)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Flags;
    use std::path::PathBuf;

    const ONE: &str = "[[apps]]\nid = 1\nkeys = [{ key = \"k1\", secret = \"s\" }]\n";
    const TWO: &str = "[[apps]]\nid = 2\nkeys = [{ key = \"k2\", secret = \"s\" }]\n";

    /// A configuration file in a directory of its own, gone with the test.
    struct Scene(tempfile::TempDir);

    impl Scene {
        fn new() -> Scene {
            let scene = Scene(tempfile::tempdir().expect("there is a temporary directory"));
            scene.write(ONE);
            scene
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn file(&self) -> PathBuf {
            self.path("fanfare.toml")
        }

        fn write(&self, text: &str) {
            std::fs::write(self.file(), text).expect("the directory is ours");
        }

        fn remove(&self) {
            std::fs::remove_file(self.file()).expect("the file was there");
        }

        fn link_to(&self, target: &str) {
            std::os::unix::fs::symlink(self.path(target), self.file()).expect("the directory is ours");
        }

        fn watch(&self) -> mpsc::Receiver<Config> {
            let source = Source::new(Some(self.file()), Flags::default());
            let running = source.load().expect("the first text is sound");
            watch(source, running).expect("signals can be handled")
        }
    }

    /// The first configuration whose app has this id. The signal of another test may bring earlier ones.
    async fn comes(configs: &mut mpsc::Receiver<Config>, id: &str) -> Config {
        loop {
            let config = configs.recv().await.expect("the watcher lives");
            if &*config.apps[0].id == id {
                return config;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_file_is_read_again() {
        let scene = Scene::new();
        let mut configs = scene.watch();
        scene.write(TWO);
        comes(&mut configs, "2").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_swapped_link_is_a_change() {
        let scene = Scene::new();
        std::fs::rename(scene.file(), scene.path("old.toml")).expect("the directory is ours");
        std::fs::write(scene.path("new.toml"), TWO).expect("the directory is ours");
        scene.link_to("old.toml");
        let mut configs = scene.watch();
        scene.remove();
        scene.link_to("new.toml");
        comes(&mut configs, "2").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_does_not_check_out_or_is_gone_changes_nothing() {
        let scene = Scene::new();
        let mut configs = scene.watch();
        scene.write("lisen = 1\n");
        assert!(tokio::time::timeout(5 * LOOK_EVERY, configs.recv()).await.is_err());
        scene.remove();
        assert!(tokio::time::timeout(5 * LOOK_EVERY, configs.recv()).await.is_err());
        scene.write(TWO);
        comes(&mut configs, "2").await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_fixed_at_the_start_stays_as_it_runs() {
        let scene = Scene::new();
        let mut configs = scene.watch();
        scene.write(&format!("listen = \"127.0.0.1:7001\"\n{TWO}"));
        assert_eq!(comes(&mut configs, "2").await.listen.port(), 6001);
    }

    #[tokio::test(start_paused = true)]
    async fn development_credentials_do_not_slip_out_through_a_reload() {
        let scene = Scene::new();
        scene.write(&format!("listen = \"0.0.0.0:6001\"\n{ONE}"));
        let mut configs = scene.watch();
        scene.write("listen = \"127.0.0.1:6001\"\n");
        assert!(tokio::time::timeout(5 * LOOK_EVERY, configs.recv()).await.is_err());
    }

    #[tokio::test]
    async fn a_hangup_reads_at_once() {
        let scene = Scene::new();
        let mut configs = scene.watch();
        let raised = std::process::Command::new("kill")
            .args(["-HUP", &std::process::id().to_string()])
            .status()
            .expect("every Unix has kill");
        assert!(raised.success());
        comes(&mut configs, "1").await;
    }
}
