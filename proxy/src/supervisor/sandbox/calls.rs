//! seccomp: the system calls that a sandboxed server may not make.
//!
//! A list of what is refused, not of what is allowed: programs in many languages must run, and a
//! list that is too short would break them with the next version of their libraries. Refused is
//! what looks into other processes, mounts, changes the machine, loads into the kernel or makes
//! namespaces, and what would go round those rules. Refused calls fail with EPERM.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op,
    SeccompCondition as Condition, SeccompFilter, SeccompRule, apply_filter,
};

use super::Rules;

/// Refused whatever their arguments.
const USUAL: &[c_long] = &[
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_process_mrelease,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_move_pages,
    libc::SYS_migrate_pages,
    // File systems.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_open_by_handle_at,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_fanotify_init,
    // Namespaces.
    libc::SYS_unshare,
    libc::SYS_setns,
    // The kernel and the machine.
    libc::SYS_bpf,
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_syslog,
    libc::SYS_vhangup,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    libc::SYS_kexec_file_load,
    // Keys of the kernel, which other processes of the user share.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
];

/// It makes calls that no filter sees.
const RINGS: [c_long; 3] = [
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
];

const NAMESPACES: [i32; 7] = [
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

type Refused = BTreeMap<i64, Vec<SeccompRule>>;

/// Binds this process.
pub(super) fn bind(rules: &Rules) -> Result<(), seccompiler::Error> {
    for program in programs(rules)? {
        apply_filter(&program)?;
    }
    Ok(())
}

fn programs(rules: &Rules) -> Result<Vec<BpfProgram>, BackendError> {
    let mut refused = Refused::new();
    let mut absent = Refused::new();
    if rules.usual_calls {
        usual(&mut refused)?;
        // Its flags lie where no filter can look; libraries then take `clone`.
        absent.insert(libc::SYS_clone3, Vec::new());
    }
    if !rules.sockets {
        refused.insert(libc::SYS_socket, Vec::new());
    } else if rules.ports.is_some() {
        only_what_ports_guard(&mut refused)?;
    }
    if rules.usual_calls || !rules.sockets || rules.ports.is_some() {
        refused.extend(RINGS.map(|call| (call, Vec::new())));
    }
    [(refused, libc::EPERM), (absent, libc::ENOSYS)]
        .into_iter()
        .filter(|(calls, _)| !calls.is_empty())
        .map(|(calls, error)| compile(calls, error))
        .collect()
}

fn usual(refused: &mut Refused) -> Result<(), BackendError> {
    refused.extend(USUAL.iter().map(|call| (*call, Vec::new())));
    let mut clone = Vec::new();
    for flag in NAMESPACES {
        let flag = u64::from(flag.unsigned_abs());
        clone.push(rule([(0, Len::Qword, Op::MaskedEq(flag), flag)])?);
    }
    refused.insert(libc::SYS_clone, clone);
    // Another process's limits: one on processor time would end it.
    let of_others = [(0, Len::Dword, Op::Ne, 0), (2, Len::Qword, Op::Ne, 0)];
    refused.insert(libc::SYS_prlimit64, vec![rule(of_others)?]);
    // Typing into somebody's terminal.
    let typing = [(1, Len::Dword, Op::Eq, libc::TIOCSTI)];
    let pasting = [(1, Len::Dword, Op::Eq, libc::TIOCLINUX)];
    refused.insert(libc::SYS_ioctl, vec![rule(typing)?, rule(pasting)?]);
    Ok(())
}

/// Landlock guards the connecting of plain TCP, so the other ways to connect are refused: other
/// families, raw sockets, multipath TCP, and data sent with the first packet. UDP is left, as names
/// are looked up over it.
fn only_what_ports_guard(refused: &mut Refused) -> Result<(), BackendError> {
    let number = |value: i32| u64::from(value.unsigned_abs());
    let known = [
        libc::AF_UNIX,
        libc::AF_INET,
        libc::AF_INET6,
        libc::AF_NETLINK,
    ];
    let unknown = known.map(|family| (0, Len::Dword, Op::Ne, number(family)));
    let mut socket = vec![rule(unknown)?];
    for family in [libc::AF_INET, libc::AF_INET6] {
        let of = (0, Len::Dword, Op::Eq, number(family));
        for kind in [libc::SOCK_RAW, libc::SOCK_SEQPACKET, libc::SOCK_DCCP] {
            let kind = (1, Len::Dword, Op::MaskedEq(0xf), number(kind));
            socket.push(rule([of.clone(), kind])?);
        }
        let stream = (1, Len::Dword, Op::MaskedEq(0xf), number(libc::SOCK_STREAM));
        let not_usual = (2, Len::Dword, Op::Ne, 0);
        let not_tcp = (2, Len::Dword, Op::Ne, number(libc::IPPROTO_TCP));
        socket.push(rule([of, stream, not_usual, not_tcp])?);
    }
    refused.insert(libc::SYS_socket, socket);
    let fast = number(libc::MSG_FASTOPEN);
    for (call, flags) in [
        (libc::SYS_sendto, 3),
        (libc::SYS_sendmsg, 2),
        (libc::SYS_sendmmsg, 3),
    ] {
        let at_once = (flags, Len::Dword, Op::MaskedEq(fast), fast);
        refused.insert(call, vec![rule([at_once])?]);
    }
    Ok(())
}

fn rule<const N: usize>(all_of: [(u8, Len, Op, u64); N]) -> Result<SeccompRule, BackendError> {
    let conditions = all_of
        .into_iter()
        .map(|(argument, len, op, value)| Condition::new(argument, len, op, value));
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

fn compile(mut calls: Refused, error: i32) -> Result<BpfProgram, BackendError> {
    if cfg!(target_arch = "x86_64") {
        also_by_the_other_numbers(&mut calls);
    }
    let filter = SeccompFilter::new(
        calls,
        SeccompAction::Allow,
        SeccompAction::Errno(error.unsigned_abs()),
        std::env::consts::ARCH.try_into()?,
    )?;
    filter.try_into()
}

/// Kernels built for x32 know each call under a second number, and some under a third.
fn also_by_the_other_numbers(calls: &mut Refused) {
    const X32: i64 = 0x4000_0000;
    const OWN: [(i64, c_long); 8] = [
        (514, libc::SYS_ioctl),
        (518, libc::SYS_sendmsg),
        (521, libc::SYS_ptrace),
        (528, libc::SYS_kexec_load),
        (533, libc::SYS_move_pages),
        (538, libc::SYS_sendmmsg),
        (539, libc::SYS_process_vm_readv),
        (540, libc::SYS_process_vm_writev),
    ];
    let own = OWN.iter().filter_map(|(number, call)| {
        let rules = calls.get(call)?;
        Some((number | X32, rules.clone()))
    });
    let second = calls
        .iter()
        .map(|(call, rules)| (call | X32, rules.clone()));
    let more: Refused = second.chain(own).collect();
    calls.extend(more);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_becomes_a_filter() {
        let of = |usual_calls, sockets, ports: Option<Vec<u16>>| {
            let rules = Rules {
                usual_calls,
                sockets,
                ports,
                seccomp: true,
                ..Rules::default()
            };
            programs(&rules).expect("it compiles").len()
        };
        assert_eq!(of(false, true, None), 0);
        assert_eq!(of(true, true, None), 2);
        assert_eq!(of(true, false, None), 2);
        assert_eq!(of(false, false, None), 1);
        assert_eq!(of(false, true, Some(vec![443])), 1);
    }
}
