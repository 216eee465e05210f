//! The system calls that the standard library does not offer: clocks of other processes, CPU affinity, priorities.
//!
//! The only file with `unsafe`. Every call passes plain numbers, or a pointer to a local that outlives the call; no pointer
//! is kept, and nothing allocated by C comes back.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Nanoseconds of the machine's monotonic clock. Unlike `Instant`, comparable between processes.
pub fn monotonic_ns() -> u64 {
    read_clock(libc::CLOCK_MONOTONIC).expect("the monotonic clock always exists")
}

/// CPU time that all threads of a process have used, exact to the nanosecond (`/proc/PID/stat` counts in ticks of 10 ms).
pub fn process_cpu_ns(pid: u32) -> io::Result<u64> {
    let mut clock: libc::clockid_t = 0;
    // SAFETY: `clock` is a valid place for the answer, and is read only after success.
    match unsafe { libc::clock_getcpuclockid(pid as libc::pid_t, &mut clock) } {
        0 => read_clock(clock),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

fn read_clock(clock: libc::clockid_t) -> io::Result<u64> {
    let mut now = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: on success the kernel has filled `now`.
    let now = unsafe {
        done(libc::clock_gettime(clock, now.as_mut_ptr()))?;
        now.assume_init()
    };
    Ok(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

/// Keeps the calling thread on one CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    // SAFETY: an all-zero `cpu_set_t` is the empty set; `CPU_SET` refuses numbers beyond its size by panicking, not writing.
    let set = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        set
    };
    // SAFETY: `set` lives across the call and its size is passed with it.
    done(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) })
}

/// Lets the calling thread run before all ordinary ones. Needs privileges.
pub fn go_first() -> io::Result<()> {
    let lowest_realtime = libc::sched_param { sched_priority: 1 };
    // SAFETY: the parameter lives across the call.
    done(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &lowest_realtime) })
}

/// Raises the soft limit of open files to the hard one, and returns it.
pub fn raise_open_files() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is valid for writing in the first call and for reading in the second.
    unsafe {
        done(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit))?;
        limit.rlim_cur = limit.rlim_max;
        done(libc::setrlimit(libc::RLIMIT_NOFILE, &limit))?;
    }
    Ok(limit.rlim_cur)
}

/// Makes a command start on one CPU (if given), and end when the thread that started it does, however that ends.
pub fn bind_child(command: &mut Command, cpu: Option<usize>) {
    let prepare = move || {
        if let Some(cpu) = cpu {
            pin(cpu)?;
        }
        // SAFETY: takes plain numbers.
        done(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })
    };
    // SAFETY: between fork and exec only these two system calls run; neither allocates nor takes a lock.
    unsafe { command.pre_exec(prepare) };
}

/// Lets this process live on after Ctrl-C, so that it can put back what it changed. Its children, being started by exec, get
/// the default back and end.
pub fn outlive_interrupt() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: the handler does nothing, so it is safe at any instant.
    unsafe { libc::signal(libc::SIGINT, nothing as *const () as libc::sighandler_t) };
}

fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
