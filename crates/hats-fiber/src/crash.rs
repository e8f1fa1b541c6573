//! What crashes inside the engine ends one script.
//!
//! A fault in the current fiber's guard pages, or at an instruction at which the fiber could be suspended ([`crate::text`]),
//! while the script's one entry into the engine is open and no frame of the host is above it, sends the coroutine to its end. The
//! engine's own `abort()` and failed assertions do so for callers in the engine's text. Everything else is the process's: it gets
//! the handler that was there before, or dies as it would have.
//!
//! `localtime_r` is the one function with a lock of libc's own that the engine calls. It is wrapped between the ends of a host
//! call, so that no script is suspended with that lock.
//!
//! What must hold: the handler touches plain cells and the interrupted registers only; a wild pointer of the engine is not
//! survived (what it may have written is unknown), only faults in guard pages and arithmetic faults are.
#![expect(unsafe_code, reason = "signal handlers and symbols of libc are replaced, see the safety notes")]

use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::mem;
use std::ptr;
use std::sync::OnceLock;

use crate::fiber::Death;
use crate::preempt::{self, Core};
use crate::{text, tick};

const SIGNALS: [c_int; 3] = [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE];
const ALTERNATE_STACK_BYTES: usize = 64 << 10;

/// The handlers that were there before.
static BEFORE: OnceLock<[libc::sigaction; SIGNALS.len()]> = OnceLock::new();

/// Installs the handlers, once for the process.
pub(crate) fn install() -> io::Result<()> {
    if BEFORE.get().is_some() {
        return Ok(());
    }
    // So that the linker takes ours.
    std::hint::black_box([abort as *const (), __assert_fail as *const (), localtime_r as *const ()]);
    real::find();
    // SAFETY: all-zero is a valid value; the handler is async-signal-safe, see the module's header.
    let before = unsafe {
        let mut before: [libc::sigaction; SIGNALS.len()] = mem::zeroed();
        for (signal, before) in SIGNALS.iter().zip(&mut before) {
            if libc::sigaction(*signal, ptr::null(), before) != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        before
    };
    if BEFORE.set(before).is_err() {
        // Another lane is just doing it.
        return Ok(());
    }
    for signal in SIGNALS {
        // SAFETY: as above.
        let installed = unsafe {
            let mut action: libc::sigaction = mem::zeroed();
            action.sa_sigaction = on_crash as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
            libc::sigaction(signal, &raw const action, ptr::null_mut())
        };
        if installed != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// A stack for signal handlers of this OS thread, with a guard page below.
pub(crate) struct AlternateStack {
    base: *mut c_void,
    length: usize,
    before: libc::stack_t,
}

impl AlternateStack {
    pub(crate) fn install() -> io::Result<Self> {
        let page = rustix::param::page_size();
        let length = ALTERNATE_STACK_BYTES + page;
        // SAFETY: the system maps where nothing is; the lowest page stays without access; the stack is this OS thread's own until
        // it is dropped.
        unsafe {
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let base = libc::mmap(ptr::null_mut(), length, libc::PROT_NONE, flags, -1, 0);
            if base == libc::MAP_FAILED {
                return Err(io::Error::last_os_error());
            }
            let usable = base.byte_add(page);
            let mut stack = Self {
                base,
                length,
                before: libc::stack_t { ss_sp: ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 },
            };
            if libc::mprotect(usable, ALTERNATE_STACK_BYTES, libc::PROT_READ | libc::PROT_WRITE) != 0 {
                return Err(io::Error::last_os_error());
            }
            let ours = libc::stack_t { ss_sp: usable, ss_flags: 0, ss_size: ALTERNATE_STACK_BYTES };
            if libc::sigaltstack(&raw const ours, &raw mut stack.before) != 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(stack)
        }
    }
}

impl Drop for AlternateStack {
    fn drop(&mut self) {
        // SAFETY: no handler runs on it while this OS thread is here; the one before is still there, since this OS thread's own
        // clean-up comes later.
        unsafe {
            libc::sigaltstack(&raw const self.before, ptr::null_mut());
            libc::munmap(self.base, self.length);
        }
    }
}

/// Which end of the script a fault is, if it is one.
fn death(
    core: &Core,
    signal: c_int,
    fault: usize,
    instruction: usize,
    stack_pointer: usize,
) -> Option<Death> {
    if !core.may_be_abandoned() {
        return None;
    }
    let is_in_guard = core.guard().contains(&fault) || core.guard().contains(&stack_pointer);
    let readable = core.guard().end..core.stack.end;
    let is_known = text::is_safe_to_end(instruction, stack_pointer, &readable);
    match signal {
        // The kernel says SIGSEGV without an address where the frame of a handler does not fit.
        libc::SIGSEGV | libc::SIGBUS if is_in_guard && is_known => Some(Death::Stack),
        libc::SIGFPE if is_known && core.stack.contains(&stack_pointer) => Some(Death::Fault(signal)),
        _ => None,
    }
}

/// Runs on the lane's alternate stack.
unsafe extern "C" fn on_crash(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel gave both to this handler.
    let (fault, code, (instruction, stack_pointer)) =
        unsafe { ((*info).si_addr().addr(), (*info).si_code, tick::interrupted_at(context)) };
    // A positive code is the kernel's own: nobody has sent the signal.
    if code > 0
        && let Some(core) = preempt::current()
        && let Some(death) = death(core, signal, fault, instruction, stack_pointer)
        && let Some(trap) = core.trap.get()
    {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: the stack pointer is in the coroutine's stack, guard included, and the coroutine is the running one. Its frames
        // own nothing (`may_be_abandoned`), so they may be thrown away. The registers are set as corosensei asks.
        unsafe {
            let to = trap.setup_trap_handler(move || preempt::Out::Dead(death));
            let registers = &mut (*context.cast::<libc::ucontext_t>()).uc_mcontext.gregs;
            registers[libc::REG_RIP as usize] = to.rip.cast_signed();
            registers[libc::REG_RSP as usize] = to.rsp.cast_signed();
            registers[libc::REG_RBP as usize] = to.rbp.cast_signed();
            registers[libc::REG_RDI as usize] = to.rdi.cast_signed();
            registers[libc::REG_RSI as usize] = to.rsi.cast_signed();
            // The direction flag is clear when a function begins.
            registers[libc::REG_EFL as usize] &= !0x400;
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (trap, death);
        #[cfg(target_arch = "x86_64")]
        return;
    }
    // None of ours: the handler that was there before takes it, or the process dies of it when the instruction is tried again.
    let Some(n) = SIGNALS.iter().position(|known| *known == signal) else { return };
    // SAFETY: what is installed is what was there before.
    unsafe {
        match BEFORE.get() {
            Some(before) => libc::sigaction(signal, &raw const before[n], ptr::null_mut()),
            None => libc::signal(signal, libc::SIG_DFL) as c_int,
        };
        if code <= 0 {
            // A signal that was sent does not come again by itself.
            libc::raise(signal);
        }
    }
}

/// What libc's own functions are.
mod real {
    #![expect(unsafe_code, reason = "symbols are looked up, see the safety notes")]

    use std::ffi::{CStr, c_void};
    use std::sync::OnceLock;

    pub(super) type LocalTime = unsafe extern "C" fn(*const libc::time_t, *mut libc::tm) -> *mut libc::tm;

    static LOCAL_TIME: OnceLock<Option<LocalTime>> = OnceLock::new();

    pub(super) fn find() {
        let _ = local_time();
    }

    pub(super) fn local_time() -> Option<LocalTime> {
        *LOCAL_TIME.get_or_init(|| {
            let found = next(c"localtime_r");
            // SAFETY: libc's function of that name has this type.
            (!found.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, LocalTime>(found) })
        })
    }

    fn next(name: &CStr) -> *mut c_void {
        // SAFETY: looks a name up in the libraries that come after the executable.
        unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) }
    }
}

/// In the place of libc's, for all of the process: between the ends of a host call, since it holds the lock of time zones.
#[unsafe(no_mangle)]
unsafe extern "C" fn localtime_r(time: *const libc::time_t, into: *mut libc::tm) -> *mut libc::tm {
    preempt::host(|_| match real::local_time() {
        // SAFETY: the caller's arguments are handed on as they are.
        Some(local_time) => unsafe { local_time(time, into) },
        // A libc that is linked statically has no other one; UTC is what is left.
        // SAFETY: as above.
        None => unsafe { libc::gmtime_r(time, into) },
    })
}

/// Ends the script if the engine has called and it may end on the spot.
fn end_script(caller: usize, death: Death) {
    if text::is_engine(caller)
        && let Some(core) = preempt::current()
        && core.may_be_abandoned()
    {
        preempt::die(death);
    }
}

unsafe extern "C" fn abort_for(caller: usize) -> ! {
    end_script(caller, Death::Assertion);
    // As libc does it.
    // SAFETY: the default action of the signal is restored and the signal sent to this process.
    unsafe {
        libc::signal(libc::SIGABRT, libc::SIG_DFL);
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGABRT);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
        libc::raise(libc::SIGABRT);
        libc::_exit(134)
    }
}

unsafe extern "C" fn assertion_failed(
    text: *const c_char,
    _file: *const c_char,
    _line: u32,
    _function: *const c_char,
    caller: usize,
) -> ! {
    end_script(caller, Death::Assertion);
    // SAFETY: the caller's text ends in NUL.
    unsafe {
        for part in [c"assertion failed: ".as_ptr(), text, c"\n".as_ptr()] {
            libc::write(2, part.cast(), libc::strlen(part));
        }
        abort_for(0)
    }
}

/// In the place of libc's: knows who has called.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn abort() -> ! {
    std::arch::naked_asm!("mov rdi, [rsp]", "jmp {}", sym abort_for)
}

#[cfg(not(target_arch = "x86_64"))]
unsafe extern "C" fn abort() -> ! {
    // SAFETY: as for a caller that is not the engine.
    unsafe { abort_for(0) }
}

/// In the place of libc's: knows who has called.
#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn __assert_fail(
    text: *const c_char,
    file: *const c_char,
    line: u32,
    function: *const c_char,
) -> ! {
    std::arch::naked_asm!("mov r8, [rsp]", "jmp {}", sym assertion_failed)
}

#[cfg(not(target_arch = "x86_64"))]
unsafe extern "C" fn __assert_fail(
    text: *const c_char,
    file: *const c_char,
    line: u32,
    function: *const c_char,
) -> ! {
    // SAFETY: as for a caller that is not the engine.
    unsafe { assertion_failed(text, file, line, function, 0) }
}
