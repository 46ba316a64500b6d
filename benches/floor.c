// The floor: the kernel work of runc's default config.json and nothing else.
//
//   floor ROOTFS CGROUPDIR|- PROGRAM [ARG...]
//
// No configuration, no JSON, no state: what it takes is what the kernel takes when it is asked in the straightforward way (one
// clone3, the new mount API), so it is the yardstick for `microrun run`. CGROUPDIR is a directory of a cgroup2 file system that
// does not exist yet; "-" means no cgroup, and then no device filter, no cgroup namespace and no cgroup mount. ROOTFS is an
// absolute path and has the directories proc, dev and sys. A failure prints the line and the errno.
//
// Freestanding on purpose: the start-up code of a static glibc issues dozens of CPUID instructions, and in a virtual machine each
// one traps to the hypervisor. That alone takes 0.5 ms there, half as much as all that follows.
//
//   cc -O2 -static -nostdlib -ffreestanding -fno-stack-protector -o floor floor.c
#include <asm/unistd.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/prctl.h>
#include <linux/sched.h>
#include <linux/stat.h>

typedef unsigned long word;
enum { PATH = O_PATH | O_CLOEXEC, DIR_FD = O_RDONLY | O_CLOEXEC, DETACH = 2, CHLD = 17, NOFILE = 7, SET_IF_FLAGS = 0x8914 };
enum { RO = MOUNT_ATTR_RDONLY, NOSUID = MOUNT_ATTR_NOSUID, NODEV = MOUNT_ATTR_NODEV, NOEXEC = MOUNT_ATTR_NOEXEC };
enum { CAPS = 1 << CAP_KILL | 1 << CAP_NET_BIND_SERVICE | 1 << CAP_AUDIT_WRITE, LAST_CAP = CAP_CHECKPOINT_RESTORE };

static word sys6(word n, word a, word b, word c, word d, word e, word f) {
#if defined __x86_64__
	register word r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	__asm__ volatile("syscall" : "+a"(n) : "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
	return n;
#elif defined __aarch64__
	register word x8 __asm__("x8") = n, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c;
	register word x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
#endif
}
#define ARGS(n, a, b, c, d, e, f, ...) n, (word)(a), (word)(b), (word)(c), (word)(d), (word)(e), (word)(f)
#define TRY(...) sys6(ARGS(__VA_ARGS__, 0, 0, 0, 0, 0, 0))
#define SYS(...) must(TRY(__VA_ARGS__), __LINE__)

static word must(word result, int line) {
	if (result < -4095UL) return result;
	char text[] = "floor: line 000: errno 000\n";
	for (int i = 2, n = line, e = -(int)result; i >= 0; i--, n /= 10, e /= 10) text[12 + i] += n % 10, text[23 + i] += e % 10;
	TRY(__NR_write, 2, text, sizeof text - 1);
	TRY(__NR_exit_group, 1);
	__builtin_unreachable();
}

// A new, still detached mount of file system `type`. `options` is key, value, key, value, ..., null; a null value is a flag.
static int mount_of(const char *type, const char **options, unsigned attributes) {
	int fs = SYS(__NR_fsopen, type, FSOPEN_CLOEXEC);
	SYS(__NR_fsconfig, fs, FSCONFIG_SET_STRING, "source", type, 0);
	for (; options && *options; options += 2)
		SYS(__NR_fsconfig, fs, options[1] ? FSCONFIG_SET_STRING : FSCONFIG_SET_FLAG, options[0], options[1], 0);
	SYS(__NR_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0);
	int mount = SYS(__NR_fsmount, fs, FSMOUNT_CLOEXEC, attributes);
	SYS(__NR_close, fs);
	return mount;
}

static void place(int mount, int dir, const char *path) {
	SYS(__NR_move_mount, mount, "", dir, path, MOVE_MOUNT_F_EMPTY_PATH | (*path ? 0 : MOVE_MOUNT_T_EMPTY_PATH));
	SYS(__NR_close, mount);
}

static int clone_of(int dir, const char *path, unsigned flags) {
	return SYS(__NR_open_tree, dir, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | flags);
}

static void set_read_only(int mount, const char *path, unsigned flags) {
	struct mount_attr read_only = {.attr_set = MOUNT_ATTR_RDONLY};
	SYS(__NR_mount_setattr, mount, path, flags, &read_only, sizeof read_only);
}

static int device_tree(void) {
	static const struct { const char *name; int major, minor; } nodes[] = {
		{"null", 1, 3}, {"zero", 1, 5}, {"full", 1, 7}, {"random", 1, 8}, {"urandom", 1, 9}, {"tty", 5, 0}};
	static const char *links[][2] = {{"/proc/self/fd", "fd"}, {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
		{"/proc/self/fd/2", "stderr"}, {"pts/ptmx", "ptmx"}, {"/proc/kcore", "core"}};
	static const char *dirs[] = {"pts", "shm", "mqueue"}, *options[] = {"mode", "755", "size", "65536k", 0};
	int dev = mount_of("tmpfs", options, NOSUID | MOUNT_ATTR_STRICTATIME);
	TRY(__NR_umask, 0);
	for (int i = 0; i < 6; i++) SYS(__NR_mknodat, dev, nodes[i].name, S_IFCHR | 0666, nodes[i].major << 8 | nodes[i].minor);
	for (int i = 0; i < 3; i++) SYS(__NR_mkdirat, dev, dirs[i], 0755);
	for (int i = 0; i < 6; i++) SYS(__NR_symlinkat, links[i][0], dev, links[i][1]);
	TRY(__NR_umask, 022);
	return dev;
}

// The default mounts below `root`, a clone of the rootfs that is in place already.
static void mount_defaults(int root, int with_cgroup) {
	static const char *pts[] = {"ptmxmode", "0666", "mode", "0620", "gid", "5", 0}, *shm[] = {"mode", "1777", "size", "65536k", 0};
	static const char *ro[] = {"ro", 0, 0};
	place(mount_of("proc", 0, 0), root, "proc");
	place(device_tree(), root, "dev");
	place(mount_of("devpts", pts, NOSUID | NOEXEC), root, "dev/pts");
	place(mount_of("tmpfs", shm, NOSUID | NOEXEC | NODEV), root, "dev/shm");
	place(mount_of("mqueue", 0, NOSUID | NOEXEC | NODEV), root, "dev/mqueue");
	place(mount_of("sysfs", ro, NOSUID | NOEXEC | NODEV | RO), root, "sys");
	if (with_cgroup) place(mount_of("cgroup2", 0, NOSUID | NOEXEC | NODEV | RO), root, "sys/fs/cgroup");
}

// linux.readonlyPaths and linux.maskedPaths. The type of a path is asked first: a bind that fails, such as a file's over a
// directory, costs an RCU grace period. The masked directories share one empty tmpfs.
static void restrict_paths(void) {
	static const char *read_only[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"};
	static const char *masked[] = {"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"}, *ro[] = {"ro", 0, 0};
	for (int i = 0; i < 5; i++) {
		int path = TRY(__NR_openat, AT_FDCWD, read_only[i], PATH);
		if (path < 0) continue;
		int tree = clone_of(path, "", AT_EMPTY_PATH | AT_RECURSIVE);
		set_read_only(tree, "", AT_EMPTY_PATH | AT_RECURSIVE);
		place(tree, path, "");
		SYS(__NR_close, path);
	}
	int null = SYS(__NR_openat, AT_FDCWD, "/dev/null", PATH), empty = -1;
	for (int i = 0; i < 10; i++) {
		struct statx type;
		int path = TRY(__NR_openat, AT_FDCWD, masked[i], PATH);
		if (path < 0) continue;
		SYS(__NR_statx, path, "", AT_EMPTY_PATH, STATX_TYPE, &type);
		if ((type.stx_mode & S_IFMT) != S_IFDIR) place(clone_of(null, "", AT_EMPTY_PATH), path, "");
		else if (empty >= 0) place(clone_of(empty, "", AT_EMPTY_PATH), path, "");
		else SYS(__NR_move_mount, empty = mount_of("tmpfs", ro, RO), "", path, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
		SYS(__NR_close, path);
	}
}

static void drop_privileges(void) {
	struct { unsigned long soft, hard; } files = {1024, 1024};
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct sets[2] = {{CAPS, CAPS, 0}};
	SYS(__NR_prlimit64, 0, NOFILE, &files, 0);
	for (int cap = 0; cap <= LAST_CAP; cap++)
		if (!(CAPS >> cap & 1) || cap > 31) SYS(__NR_prctl, PR_CAPBSET_DROP, cap, 0, 0, 0);
	SYS(__NR_setgroups, 0, 0);
	SYS(__NR_setresgid, 0, 0, 0);
	SYS(__NR_setresuid, 0, 0, 0);
	SYS(__NR_capset, &header, sets);
	SYS(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
}

static void init(const char *rootfs, int with_cgroup, char **argv) {
	static const char *env[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm", 0};
	struct { char name[16]; short flags; char rest[22]; } loopback = {"lo", 1 /* IFF_UP */, ""};
	SYS(__NR_setsid);
	SYS(__NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0); // as runc does, lest the container see the caller's keys
	int net = SYS(__NR_socket, 2 /* AF_INET */, 2 /* SOCK_DGRAM */ | O_CLOEXEC, 0);
	SYS(__NR_ioctl, net, SET_IF_FLAGS, &loopback);
	SYS(__NR_sethostname, "runc", 4);

	SYS(__NR_mount, 0, "/", 0, 1 << 14 /* MS_REC */ | 1 << 19 /* MS_SLAVE */, 0);
	int root = clone_of(AT_FDCWD, rootfs, AT_RECURSIVE);
	SYS(__NR_move_mount, root, "", AT_FDCWD, rootfs, MOVE_MOUNT_F_EMPTY_PATH);
	mount_defaults(root, with_cgroup);
	set_read_only(root, "", AT_EMPTY_PATH);
	SYS(__NR_fchdir, root);
	SYS(__NR_pivot_root, ".", ".");
	SYS(__NR_umount2, ".", DETACH);
	SYS(__NR_chdir, "/");
	restrict_paths();
	drop_privileges();
	SYS(__NR_close_range, 3, ~0U, 4 /* CLOSE_RANGE_CLOEXEC */);
	SYS(__NR_execve, argv[0], argv, env);
}

// Lets the cgroup use the devices that runc allows by default, and make nodes of any; the program sees {access << 16 | type, major, minor}.
static void attach_device_filter(int cgroup) {
#define INSN(c, d, s, o, i) {.code = c, .dst_reg = d, .src_reg = s, .off = o, .imm = i}
#define LOAD(r, field) INSN(BPF_LDX | BPF_W | BPF_MEM, r, 1, field, 0)
#define SKIP_UNLESS(r, value, n) INSN(BPF_JMP | BPF_JNE | BPF_K, r, 0, n, value)
#define RETURN(value) INSN(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, value), INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define ALLOW(major, minor) SKIP_UNLESS(2, BPF_DEVCG_DEV_CHAR, 4), SKIP_UNLESS(4, major, 3), SKIP_UNLESS(5, minor, 2), RETURN(1)
	static const struct bpf_insn filter[] = {
		LOAD(2, 0), INSN(BPF_ALU | BPF_AND | BPF_K, 2, 0, 0, 0xffff), LOAD(3, 0), INSN(BPF_ALU | BPF_RSH | BPF_K, 3, 0, 0, 16),
		LOAD(4, 4), LOAD(5, 8), ALLOW(1, 3), ALLOW(1, 5), ALLOW(1, 7), ALLOW(1, 8), ALLOW(1, 9), ALLOW(5, 0), ALLOW(5, 2),
		SKIP_UNLESS(2, BPF_DEVCG_DEV_CHAR, 3), SKIP_UNLESS(4, 136, 2), RETURN(1), SKIP_UNLESS(3, BPF_DEVCG_ACC_MKNOD, 2), RETURN(1), RETURN(0)};
	union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insns = (word)filter, .license = (word) "GPL"};
	load.insn_cnt = sizeof filter / sizeof *filter;
	int program = SYS(__NR_bpf, BPF_PROG_LOAD, &load, sizeof load);
	union bpf_attr attach = {.target_fd = cgroup, .attach_bpf_fd = program, .attach_type = BPF_CGROUP_DEVICE, .attach_flags = BPF_F_ALLOW_MULTI};
	SYS(__NR_bpf, BPF_PROG_ATTACH, &attach, sizeof attach);
}

__attribute__((used)) static void start(word *stack) {
	char **argv = (char **)(stack + 1);
	if (stack[0] < 4) must(-22 /* EINVAL */, __LINE__);
	int with_cgroup = argv[2][0] != '-', status;
	struct clone_args args = {.flags = CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWNS, .exit_signal = CHLD};
	if (with_cgroup) {
		SYS(__NR_mkdirat, AT_FDCWD, argv[2], 0755);
		args.cgroup = SYS(__NR_openat, AT_FDCWD, argv[2], DIR_FD);
		args.flags |= CLONE_NEWCGROUP | CLONE_INTO_CGROUP;
		attach_device_filter(args.cgroup);
	}
	int child = SYS(__NR_clone3, &args, sizeof args);
	if (child == 0) init(argv[1], with_cgroup, argv + 3);
	SYS(__NR_wait4, child, &status, 0, 0);
	if (with_cgroup) SYS(__NR_unlinkat, AT_FDCWD, argv[2], 0x200 /* AT_REMOVEDIR */);
	TRY(__NR_exit_group, status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff);
}

#if defined __x86_64__
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
#elif defined __aarch64__
__asm__(".globl _start\n_start: mov x0, sp\n bl start\n");
#endif
