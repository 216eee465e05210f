//! How many puts a second the store on disk acknowledges, each of one job of 300 bytes, 512 in flight, synced before the
//! answer; beside logs that do nothing but append and sync, in the same run:
//!
//! - `bare`: a loop that appends 512 records at once and syncs them. Nobody waits for an answer, so this is the disk;
//! - `log`: the same tasks as for the store hand records to a thread, which appends what has arrived, syncs and answers.
//!
//! `cargo bench -p fanfare-jobs --bench puts -- [folder]`; the folder decides which disk is measured.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_jobs::{Disk, Limits, Spec};
use tokio::sync::{mpsc, oneshot};

const RECORD_BYTES: usize = 300;
const IN_FLIGHT: usize = 512;
const ROUNDS: usize = 11;
const ROUND: Duration = Duration::from_secs(1);

fn main() {
    let folder = std::env::args().skip(1).find(|arg| !arg.starts_with('-')).map(PathBuf::from);
    let folder = tempfile::tempdir_in(folder.unwrap_or_else(std::env::temp_dir)).expect("a folder");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime starts");
    let mut ratios = Vec::new();
    println!("round       bare        log      store   batched   store/bare   store/log   batched/bare");
    for round in 1..=ROUNDS {
        let path = folder.path().join(round.to_string());
        std::fs::create_dir(&path).expect("a folder");
        let bare = bare(&path);
        let log = runtime.block_on(log(&path));
        let store = runtime.block_on(store(&path.join("single"), 1));
        let batched = runtime.block_on(store_batches(&path));
        println!(
            "{round:5} {bare:10.0} {log:10.0} {store:10.0} {batched:9.0} {:12.2} {:11.2} {:14.2}",
            store / bare,
            store / log,
            batched / bare
        );
        ratios.push([store / bare, store / log, batched / bare]);
        std::fs::remove_dir_all(path).expect("the folder is ours");
    }
    let median = |at: usize| {
        let mut column: Vec<_> = ratios.iter().map(|ratios| ratios[at]).collect();
        column.sort_by(f64::total_cmp);
        column[column.len() / 2]
    };
    println!(
        "median of {ROUNDS}: store/bare {:.2}, store/log {:.2}, batched/bare {:.2}",
        median(0),
        median(1),
        median(2)
    );
}

/// Records a second.
fn rate(records: usize, since: Instant) -> f64 {
    records as f64 / since.elapsed().as_secs_f64()
}

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).expect("a file")
}

fn bare(folder: &Path) -> f64 {
    let mut file = append(&folder.join("bare"));
    let records = vec![b'.'; RECORD_BYTES * IN_FLIGHT];
    let (mut written, begin) = (0, Instant::now());
    while begin.elapsed() < ROUND {
        file.write_all(&records).expect("the disk takes it");
        file.sync_data().expect("the disk takes it");
        written += IN_FLIGHT;
    }
    rate(written, begin)
}

/// As many tasks as are in flight, each of which does one thing after the other; things a second.
async fn in_flight<F: Future<Output = ()> + Send>(tasks: usize, act: impl Fn() -> F + Clone + Send + 'static) -> f64 {
    let begin = Instant::now();
    let tasks: Vec<_> = std::iter::repeat_n(act, tasks)
        .map(|act| {
            tokio::spawn(async move {
                let mut done = 0;
                while begin.elapsed() < ROUND {
                    act().await;
                    done += 1;
                }
                done
            })
        })
        .collect();
    let mut done = 0;
    for task in tasks {
        done += task.await.expect("a task ends");
    }
    rate(done, begin)
}

async fn log(folder: &Path) -> f64 {
    let mut file = append(&folder.join("log"));
    let (sender, mut receiver) = mpsc::channel::<(Vec<u8>, oneshot::Sender<()>)>(4_096);
    std::thread::spawn(move || {
        while let Some((mut bytes, answer)) = receiver.blocking_recv() {
            let mut answers = vec![answer];
            while let Ok((more, answer)) = receiver.try_recv() {
                bytes.extend(more);
                answers.push(answer);
            }
            file.write_all(&bytes).expect("the disk takes it");
            file.sync_data().expect("the disk takes it");
            answers.into_iter().for_each(|answer| _ = answer.send(()));
        }
    });
    in_flight(IN_FLIGHT, move || {
        let sender = sender.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            sender.send((vec![b'.'; RECORD_BYTES], answer)).await.expect("the thread runs");
            answered.await.expect("the thread answers");
        }
    })
    .await
}

/// Jobs a second, put so many at once.
async fn store(folder: &Path, at_once: usize) -> f64 {
    let disk = Disk::open(folder).expect("a folder opens");
    let limits = Limits { jobs_max: usize::MAX, bytes_max: usize::MAX, ..Limits::default() };
    let queue = disk.queue("app/queue", limits);
    let data = bytes::Bytes::from(vec![b'.'; RECORD_BYTES]);
    let puts = in_flight(IN_FLIGHT / at_once, move || {
        let (queue, spec) = (Arc::clone(&queue), Spec { data: data.clone(), ..Spec::default() });
        async move {
            queue.put(vec![spec; at_once], 1).await.expect("the store takes it");
        }
    });
    puts.await * at_once as f64
}

/// As a request with many jobs does.
async fn store_batches(folder: &Path) -> f64 {
    store(&folder.join("batched"), 128).await
}
