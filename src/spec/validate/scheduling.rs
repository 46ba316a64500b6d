//! `process.scheduler` and `process.ioPriority`.

use crate::error::{Error, Result};
use oci_spec::runtime::{LinuxSchedulerPolicy as Policy, Process, Scheduler};

/// sched_setattr(2), which refuses the same with a bare EINVAL.
pub(super) fn scheduler(process: &Process) -> Result<()> {
    let Some(scheduler) = process.scheduler() else { return Ok(()) };
    let policy = *scheduler.policy();
    if policy == Policy::SchedIso {
        let problem = "SCHED_ISO was never implemented by Linux: use another policy";
        return Err(Error::config("process.scheduler.policy", problem));
    }
    nice(scheduler, policy)?;
    priority(scheduler, policy)?;
    deadline(scheduler, policy)
}

fn nice(scheduler: &Scheduler, policy: Policy) -> Result<()> {
    let nice = scheduler.nice().unwrap_or(0);
    if matches!(policy, Policy::SchedOther | Policy::SchedBatch) && !(-20..=19).contains(&nice) {
        return Err(Error::config("process.scheduler.nice", format!("{nice} is out of range: use -20 to 19")));
    }
    Ok(())
}

fn priority(scheduler: &Scheduler, policy: Policy) -> Result<()> {
    let field = "process.scheduler.priority";
    let priority = scheduler.priority().unwrap_or(0);
    if matches!(policy, Policy::SchedFifo | Policy::SchedRr) {
        if (1..=99).contains(&priority) {
            return Ok(());
        }
        return Err(Error::config(field, format!("{priority} is out of range for {policy}: use 1 to 99")));
    }
    if priority != 0 {
        return Err(Error::config(field, format!("is for SCHED_FIFO and SCHED_RR, not for {policy}: remove it")));
    }
    Ok(())
}

fn deadline(scheduler: &Scheduler, policy: Policy) -> Result<()> {
    let [runtime, deadline, period] =
        [scheduler.runtime(), scheduler.deadline(), scheduler.period()].map(|time| time.unwrap_or(0));
    if policy != Policy::SchedDeadline {
        for (field, time) in [("runtime", runtime), ("deadline", deadline), ("period", period)] {
            if time != 0 {
                let problem = format!("is for SCHED_DEADLINE, not for {policy}: remove it");
                return Err(Error::config(format_args!("process.scheduler.{field}"), problem));
            }
        }
        return Ok(());
    }
    // A period of 0 stands for one as long as the deadline.
    let period = if period == 0 { deadline } else { period };
    if runtime > 0 && runtime <= deadline && deadline <= period {
        return Ok(());
    }
    let problem = "SCHED_DEADLINE needs 0 < runtime <= deadline <= period, in nanoseconds: correct them";
    Err(Error::config("process.scheduler", problem))
}

/// config.md: from 0, the highest, to 7.
pub(super) fn io_priority(process: &Process) -> Result<()> {
    match process.io_priority() {
        Some(io) if !(0..=7).contains(&io.priority()) => {
            let problem = format!("{} is out of range: use 0 to 7", io.priority());
            Err(Error::config("process.ioPriority.priority", problem))
        }
        _ => Ok(()),
    }
}
