/* The clones whose child runs a C function on its own stack, in assembly.

   A child that shares memory must not return through the caller's frames: the caller is still using them.
   So the child never returns: it calls its entry and exits. entry and argument travel in registers that the
   system call keeps, because the child's stack is empty. The frame pointer and return address are cleared,
   so that unwinders (gdb, perf, py-spy) stop there. */
#include "arch.h"

#if defined(__x86_64__)

/* rdi args, rsi size, rdx entry, rcx argument. The kernel keeps every register but rax, rcx and r11. */
__asm__(".text\n"
        ".globl sc_arch_clone3\n"
        ".hidden sc_arch_clone3\n"
        ".type sc_arch_clone3, @function\n"
        "sc_arch_clone3:\n"
        "    .cfi_startproc\n"
        "    mov %rdx, %r8\n"
        "    mov %rcx, %r9\n"
        "    mov $435, %eax\n"
        "    syscall\n"
        "    test %rax, %rax\n"
        "    jz 1f\n"
        "0:  ret\n"
        "1:  test %r8, %r8\n"
        "    jz 0b\n"
        "    .cfi_undefined rip\n"
        "    xor %ebp, %ebp\n"
        "    mov %r9, %rdi\n"
        "    call *%r8\n"
        "    mov %eax, %edi\n"
        "    mov $60, %eax\n"
        "    syscall\n"
        "    hlt\n"
        "    .cfi_endproc\n"
        ".size sc_arch_clone3, .-sc_arch_clone3\n");

/* rdi flags, rsi stack, rdx ptid, rcx ctid, r8 tls, r9 entry, 8(%rsp) argument.
   The call takes flags, stack, ptid, ctid (r10), tls (r8). */
__asm__(".text\n"
        ".globl sc_arch_clone\n"
        ".hidden sc_arch_clone\n"
        ".type sc_arch_clone, @function\n"
        "sc_arch_clone:\n"
        "    .cfi_startproc\n"
        "    push %r12\n"
        "    .cfi_adjust_cfa_offset 8\n"
        "    .cfi_rel_offset r12, 0\n"
        "    mov 16(%rsp), %r12\n"
        "    mov %rcx, %r10\n"
        "    mov $56, %eax\n"
        "    syscall\n"
        "    test %rax, %rax\n"
        "    jz 1f\n"
        "0:  pop %r12\n"
        "    .cfi_remember_state\n"
        "    .cfi_adjust_cfa_offset -8\n"
        "    .cfi_restore r12\n"
        "    ret\n"
        "    .cfi_restore_state\n"
        "1:  test %r9, %r9\n"
        "    jz 0b\n"
        "    .cfi_undefined rip\n"
        "    xor %ebp, %ebp\n"
        "    mov %r12, %rdi\n"
        "    call *%r9\n"
        "    mov %eax, %edi\n"
        "    mov $60, %eax\n"
        "    syscall\n"
        "    hlt\n"
        "    .cfi_endproc\n"
        ".size sc_arch_clone, .-sc_arch_clone\n");

#elif defined(__aarch64__)

/* x0 args, x1 size, x2 entry, x3 argument. The kernel keeps every register but x0. */
__asm__(".text\n"
        ".globl sc_arch_clone3\n"
        ".hidden sc_arch_clone3\n"
        ".type sc_arch_clone3, %function\n"
        "sc_arch_clone3:\n"
        "    .cfi_startproc\n"
        "    mov x9, x2\n"
        "    mov x10, x3\n"
        "    mov x8, #435\n"
        "    svc #0\n"
        "    cbz x0, 1f\n"
        "0:  ret\n"
        "1:  cbz x9, 0b\n"
        "    .cfi_undefined x30\n"
        "    mov x29, #0\n"
        "    mov x30, #0\n"
        "    mov x0, x10\n"
        "    blr x9\n"
        "    mov x8, #93\n"
        "    svc #0\n"
        "    brk #0\n"
        "    .cfi_endproc\n"
        ".size sc_arch_clone3, .-sc_arch_clone3\n");

/* x0 flags, x1 stack, x2 ptid, x3 ctid, x4 tls, x5 entry, x6 argument.
   The call takes flags, stack, ptid, tls, ctid: CONFIG_CLONE_BACKWARDS. */
__asm__(".text\n"
        ".globl sc_arch_clone\n"
        ".hidden sc_arch_clone\n"
        ".type sc_arch_clone, %function\n"
        "sc_arch_clone:\n"
        "    .cfi_startproc\n"
        "    mov x9, x5\n"
        "    mov x10, x6\n"
        "    mov x11, x3\n"
        "    mov x3, x4\n"
        "    mov x4, x11\n"
        "    mov x8, #220\n"
        "    svc #0\n"
        "    cbz x0, 1f\n"
        "0:  ret\n"
        "1:  cbz x9, 0b\n"
        "    .cfi_undefined x30\n"
        "    mov x29, #0\n"
        "    mov x30, #0\n"
        "    mov x0, x10\n"
        "    blr x9\n"
        "    mov x8, #93\n"
        "    svc #0\n"
        "    brk #0\n"
        "    .cfi_endproc\n"
        ".size sc_arch_clone, .-sc_arch_clone\n");

#endif
