//! The machine: memory, swap, load and disk, as the kernel tells them.
//!
//! Read when somebody asks. What cannot be read is absent, never zero.

use std::path::Path;

use serde_json::{Value, json};

/// What the kernel says.
pub(super) struct Machine {
    total: Option<u64>,
    available: Option<u64>,
    swap_total: Option<u64>,
    swap_free: Option<u64>,
    load: Vec<f64>,
    processors: usize,
}

impl Machine {
    /// As of now.
    pub(super) fn look() -> Self {
        let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self::read(&memory, &load, processors)
    }

    fn read(memory: &str, load: &str, processors: usize) -> Self {
        let of = |key: &str| {
            let line = memory.lines().find_map(|line| line.strip_prefix(key))?;
            let kibibytes = line.trim().strip_suffix("kB")?.trim();
            kibibytes.parse::<u64>().ok()?.checked_mul(1024)
        };
        let load = load.split_whitespace().take(3);
        Self {
            total: of("MemTotal:"),
            available: of("MemAvailable:"),
            swap_total: of("SwapTotal:"),
            swap_free: of("SwapFree:"),
            load: load.filter_map(|number| number.parse().ok()).collect(),
            processors,
        }
    }

    /// For a program.
    pub(super) fn value(&self) -> Value {
        json!({
            "memory_total_bytes": self.total,
            "memory_available_bytes": self.available,
            "swap_total_bytes": self.swap_total,
            "swap_free_bytes": self.swap_free,
            "load": self.load,
            "processors": self.processors,
        })
    }

    /// What is short, in words.
    pub(super) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if let (Some(total), Some(available)) = (self.total, self.available)
            && available < total / 10
        {
            notes.push(format!(
                "Memory is short: {} MiB of {} MiB are available; a server may be killed for it.",
                available >> 20,
                total >> 20
            ));
        }
        if let (Some(total @ 1..), Some(free)) = (self.swap_total, self.swap_free)
            && free < total / 10
        {
            notes.push("Swap is nearly used up.".to_owned());
        }
        if let Some(load) = self.load.first()
            && *load > 2.0 * self.processors as f64
        {
            notes.push(format!(
                "The machine is overloaded: {load} processes want to run on {} processors.",
                self.processors
            ));
        }
        notes
    }
}

/// The disk that a folder is on: all of it, and what is free.
pub(super) fn disk(folder: &Path) -> (Option<u64>, Option<u64>) {
    let disk = crate::platform::disk(folder);
    disk.map_or((None, None), |disk| (disk.total, disk.available))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_writes_is_read_and_what_it_does_not_is_absent() {
        let memory = "MemTotal:       1000 kB\nMemFree: 10 kB\nMemAvailable:     90 kB\n";
        let machine = Machine::read(memory, "9.50 0.20 0.10 1/234 567\n", 2);
        let value = machine.value();
        assert_eq!(value["memory_total_bytes"], 1_024_000);
        assert_eq!(value["memory_available_bytes"], 92_160);
        assert_eq!(value["swap_total_bytes"], Value::Null);
        assert_eq!(value["load"], json!([9.5, 0.2, 0.1]));
        assert_eq!(machine.notes().len(), 2, "{:?}", machine.notes());
        let quiet = Machine::read("", "", 2);
        assert_eq!(quiet.value()["memory_total_bytes"], Value::Null);
        assert!(quiet.notes().is_empty());
    }
}
