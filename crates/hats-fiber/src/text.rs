//! At which instructions a script may be suspended: the engine's own, libm's, and those of a few leaf functions of libc.
//!
//! The engine's are read once from the symbol table of the executable (a build keeps it; `strip --strip-debug` does too): the
//! functions of the engine's four source files, and functions of the C names between them. Nothing else that lies between, such
//! as a cold part of another object, is taken for the engine.
#![expect(unsafe_code, reason = "the unwind tables of loaded libraries are read, see the safety notes")]

use std::ffi::{CStr, c_void};
use std::fs;
use std::ops::Range;
use std::ptr;
use std::sync::OnceLock;

use object::read::ReadCache;
use object::{Object, ObjectSymbol, SymbolKind};

/// The source files of the engine, as the symbol table names them.
const ENGINE_FILES: [&str; 4] = ["quickjs.c", "libregexp.c", "libunicode.c", "dtoa.c"];
/// How the names of the functions begin that these files export.
const ENGINE_PREFIXES: [&str; 8] = ["JS_", "js_", "__JS_", "lre_", "unicode_", "cr_", "free_", "dbuf_"];
/// Padding between two functions, which begin at multiples of 16: another function does not fit there.
const PADDING_MAX: usize = 15;
/// Functions of libc that take no lock and call nothing.
const LEAVES: [&CStr; 8] =
    [c"memcpy", c"memmove", c"memset", c"memcmp", c"memchr", c"strlen", c"strchr", c"strrchr"];

struct Text {
    /// In order, and apart from each other.
    engine: Vec<Range<usize>>,
    libm: Range<usize>,
    leaves: Vec<Range<usize>>,
}

static TEXT: OnceLock<Result<Text, &'static str>> = OnceLock::new();

/// Finds the ranges, once.
///
/// # Errors
/// Why they cannot be known.
pub(crate) fn known() -> Result<(), &'static str> {
    TEXT.get_or_init(find).as_ref().map(|_| ()).map_err(|why| *why)
}

/// True in the engine's own text. Async-signal-safe.
pub(crate) fn is_engine(address: usize) -> bool {
    matches!(TEXT.get(), Some(Ok(text)) if is_in(&text.engine, address))
}

/// True at an instruction of the engine or of libm, or of a leaf function of libc whose caller can still be read from the stack.
/// Async-signal-safe.
pub(crate) fn is_safe_to_end(instruction: usize, stack_pointer: usize, readable: &Range<usize>) -> bool {
    let Some(Ok(text)) = TEXT.get() else { return false };
    is_in(&text.engine, instruction)
        || text.libm.contains(&instruction)
        || (readable.contains(&stack_pointer) && is_safe(instruction, stack_pointer))
}

/// True where a script that runs the engine may be suspended. Async-signal-safe.
pub(crate) fn is_safe(instruction: usize, stack_pointer: usize) -> bool {
    let Some(Ok(text)) = TEXT.get() else { return false };
    if is_in(&text.engine, instruction) || text.libm.contains(&instruction) {
        return true;
    }
    // A leaf function never moves the stack pointer: its return address is there at each of its instructions.
    // SAFETY: the stack pointer of an interrupted function leads to the stack that it runs on, in which the caller has found it.
    let return_address = || unsafe { ptr::with_exposed_provenance::<usize>(stack_pointer).read() };
    text.leaves.iter().any(|leaf| leaf.contains(&instruction)) && is_in(&text.engine, return_address())
}

fn is_in(ranges: &[Range<usize>], address: usize) -> bool {
    let after = ranges.partition_point(|range| range.start <= address);
    after > 0 && ranges[after - 1].end > address
}

fn find() -> Result<Text, &'static str> {
    if cfg!(hats_asan) {
        return Err("sanitizers know nothing of stacks that are switched by signals");
    }
    if !cfg!(all(target_arch = "x86_64", target_os = "linux", target_env = "gnu")) {
        return Err("preemption by signals is built for x86-64 Linux with glibc only");
    }
    let engine = engine()?;
    let resolve = |name: &CStr| {
        // SAFETY: looks a name up among the libraries that are loaded.
        unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }.addr()
    };
    let leaves = LEAVES.iter().filter_map(|name| leaf(resolve(name))).collect();
    // libm has no locks, and no state but errno and the flags of the processor.
    let libm =
        mapping(resolve(c"sin")).filter(|libm| !engine.iter().any(|range| libm.contains(&range.start)));
    Ok(Text { engine, libm: libm.unwrap_or(0..0), leaves })
}

/// The ranges of the engine's functions in this process.
fn engine() -> Result<Vec<Range<usize>>, &'static str> {
    const NO_SYMBOLS: &str = "the executable has no symbol table (strip --strip-debug keeps it)";
    let file = fs::File::open("/proc/self/exe").map_err(|_| "/proc/self/exe cannot be read")?;
    let cache = ReadCache::new(file);
    let object = object::File::parse(&cache).map_err(|_| "/proc/self/exe cannot be read as an ELF file")?;
    let mut is_engine_file = false;
    let mut functions: Vec<(Range<u64>, Owner)> = Vec::new();
    let mut anchor = None;
    for symbol in object.symbols() {
        let name = symbol.name().unwrap_or_default();
        match symbol.kind() {
            SymbolKind::File => is_engine_file = ENGINE_FILES.contains(&name),
            SymbolKind::Text if symbol.size() > 0 => {
                let owner = match () {
                    () if symbol.is_local() && is_engine_file => Owner::Engine,
                    () if symbol.is_local() => Owner::Other,
                    () if ENGINE_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) => Owner::ByName,
                    () => Owner::Other,
                };
                if name == "JS_NewRuntime2" {
                    anchor = Some(symbol.address());
                }
                functions.push((symbol.address()..symbol.address() + symbol.size(), owner));
            }
            _ => {}
        }
    }
    let anchor = anchor.ok_or(NO_SYMBOLS)?;
    functions.sort_unstable_by_key(|(range, _)| range.start);
    let found = engine_functions(&functions);
    if found.is_empty() {
        return Err(NO_SYMBOLS);
    }
    let here = JS_NEW_RUNTIME.get().copied().unwrap_or_default() as u64;
    if here == 0 {
        return Err("the engine has not said where it is");
    }
    let bias = here.wrapping_sub(anchor);
    let mut merged: Vec<Range<usize>> = Vec::new();
    for range in found {
        let range = to_usize(range.start.wrapping_add(bias))..to_usize(range.end.wrapping_add(bias));
        match merged.last_mut() {
            // Padding between functions is never executed.
            Some(last) if range.start <= last.end + PADDING_MAX => last.end = last.end.max(range.end),
            _ => merged.push(range),
        }
    }
    Ok(merged)
}

/// Whose a function is, as far as its symbol says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// A local one of the engine's files.
    Engine,
    /// An exported one with a name like the engine's.
    ByName,
    Other,
}

/// The engine's functions: the local ones of its files, and those with names like the engine's that lie beside one of them.
fn engine_functions(functions: &[(Range<u64>, Owner)]) -> Vec<Range<u64>> {
    let is_beside_engine = |n: usize| {
        let (before, after) = (&functions[..n], &functions[n + 1..]);
        let decides = |(_, owner): &&(Range<u64>, Owner)| *owner != Owner::ByName;
        let neighbours = [before.iter().rev().find(decides), after.iter().find(decides)];
        neighbours.into_iter().flatten().any(|(_, owner)| *owner == Owner::Engine)
    };
    let is_engine = |n: usize, owner: Owner| match owner {
        Owner::Engine => true,
        Owner::ByName => is_beside_engine(n),
        Owner::Other => false,
    };
    let engine = functions.iter().enumerate().filter(|(n, (_, owner))| is_engine(*n, *owner));
    engine.map(|(_, (range, _))| range.clone()).collect()
}

static JS_NEW_RUNTIME: OnceLock<usize> = OnceLock::new();

/// Tells where the engine's function `JS_NewRuntime2` is in this process: from that and the symbol table follows where the rest
/// is. Whoever binds the engine calls it before the first [`crate::attach`].
pub fn engine_is_at(js_new_runtime2: usize) {
    let _ = JS_NEW_RUNTIME.set(js_new_runtime2);
}

fn to_usize(address: u64) -> usize {
    usize::try_from(address).unwrap_or(usize::MAX)
}

unsafe extern "C" {
    fn _Unwind_Find_FDE(pc: *const c_void, bases: *mut [usize; 3]) -> *const u8;
}

/// The bounds of a function that never has a frame, as the unwind tables have them: its entry has no instructions but nops.
/// Entries other than those that gcc emits for plain functions (relative addresses of 4 bytes, no augmentation) are refused.
fn leaf(address: usize) -> Option<Range<usize>> {
    if address == 0 {
        return None;
    }
    let mut bases = [0; 3];
    // SAFETY: the unwinder looks an address up in the tables of the libraries that are loaded.
    let entry = unsafe { _Unwind_Find_FDE(ptr::without_provenance(address + 1), &raw mut bases) };
    if entry.is_null() {
        return None;
    }
    // SAFETY: an entry begins with its length, which counts what follows, and has at least the fields that are read.
    let (instructions, augmentation, length) = unsafe {
        let word = |at: usize| entry.add(at).cast::<u32>().read_unaligned() as usize;
        let bytes = (word(0) + 4).checked_sub(17)?;
        (std::slice::from_raw_parts(entry.add(17), bytes), entry.add(16).read(), word(12))
    };
    let is_leaf = augmentation == 0 && instructions.iter().all(|byte| *byte == 0);
    is_leaf.then(|| bases[2]..bases[2] + length)
}

/// The executable mapping that an address lies in.
fn mapping(address: usize) -> Option<Range<usize>> {
    let maps = fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines().find_map(|line| {
        let (from, to) = line.split(' ').next()?.split_once('-')?;
        let range = usize::from_str_radix(from, 16).ok()?..usize::from_str_radix(to, 16).ok()?;
        range.contains(&address).then_some(range)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_looked_up_among_ranges_in_order() {
        let ranges = [10..20, 30..31, 40..50];
        let inside = |address| is_in(&ranges, address);
        assert!(inside(10) && inside(19) && inside(30) && inside(49));
        assert!(!inside(9) && !inside(20) && !inside(31) && !inside(50) && !inside(0));
    }

    #[test]
    fn libc_has_leaf_functions() {
        // SAFETY: looks a name up.
        let address = unsafe { libc::dlsym(libc::RTLD_DEFAULT, c"strlen".as_ptr()) }.addr();
        let found = leaf(address).unwrap();
        assert!(found.contains(&address));
    }
}
