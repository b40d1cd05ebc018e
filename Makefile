# Builds liboffload, its programs and its tests. `make help` lists what can be made,
# `make config` says what was found on this machine. Files are found by wildcard:
# a new .c file in a room needs no line here.
#
# It is not recursive, except where packages may be installed first (check, demo,
# show): what is on the machine is looked at when a make starts.

SOVERSION := 0

# ---- what can be set -------------------------------------------------------

CC := $(if $(filter default,$(origin CC)),gcc,$(CC))
AR ?= ar
OBJCOPY ?= objcopy
PKG_CONFIG ?= pkg-config
PYTHON ?= python3
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
DESTDIR ?=
CFLAGS ?= -O2 -g
LDFLAGS ?=
WITH_HWLOC ?= auto
WITH_NUMA ?= auto
WITH_URING ?= auto
WITH_CUDA ?= auto
SAN ?=
WERROR ?=
V ?=
CHECK ?=
CUDA_HOME ?= /usr/local/cuda
NVCC ?= $(firstword $(wildcard $(CUDA_HOME)/bin/nvcc) nvcc)
# Native code for those of 8.0, 8.9, 9.0, 10.0 and 12.0 that nvcc knows. Other GPUs compile PTX when it is loaded: that of
# 8.9, whose launch bounds are for the least shared memory.
NVCC_CODES := $(if $(filter 0,$(WITH_CUDA)),,$(shell $(NVCC) --list-gpu-code 2>/dev/null))
NVCC_ARCHS ?= $(or $(filter $(patsubst sm_%,%,$(NVCC_CODES)),80 89 90 100 120),80 89 90)
NVCC_PTX ?= $(firstword $(filter 89,$(NVCC_ARCHS)) $(NVCC_ARCHS))
NVCC_RELEASE = $(shell $(NVCC) --version | sed -n 's/.*, V\([0-9.]*\).*/\1/p')
# Of the same family as CC, since their objects and sanitizers meet: gcc and g++, clang and clang++.
CXX := $(if $(filter default,$(origin CXX)),$(patsubst cc,c++,$(subst clang,clang++,$(subst gcc,g++,$(CC)))),$(CXX))
CLANG_FORMAT ?= $(firstword $(shell command -v clang-format-14 clang-format) clang-format)

# Each kind of build has a folder of its own: build, build-clang, build-asan, ...
san_none :=
san_address := -asan
san_thread := -tsan
san_undefined := -ubsan
san_fuzzer := -fuzzer
ifneq ($(SAN),)
ifeq ($(san_$(SAN)),)
$(error SAN=$(SAN) is not one of address, thread, undefined, fuzzer)
endif
endif
B ?= build$(if $(filter-out gcc cc,$(CC)),-$(notdir $(firstword $(CC))))$(san_$(or $(SAN),none))

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules
Q := $(if $(V),,@)
say = $(if $(V),@:,@printf '  %-7s %s\n' $(1) $(2))

include tools/gpu.mk

# All cores, unless the command line says otherwise.
ifeq ($(MAKELEVEL),0)
ifeq ($(filter -j%,$(MAKEFLAGS)),)
MAKEFLAGS += -j$(shell nproc)
endif
endif

# ---- what is here ----------------------------------------------------------

VERSION := $(shell sed -n 's/^.define OFL_VERSION_[MP][A-Z]* \([0-9]*\)$$/\1/p' include/offload.h | paste -sd.)

has = $(shell $(PKG_CONFIG) --exists $(1) 2>/dev/null && echo 1)
# $(call part,WITH_X,pkg-config name,Debian package): 1 or 0; missing packages are collected.
part = $(if $(filter 0,$($(1))),0,$(if $(call has,$(2)),1,0$(if $(filter 1,$($(1))),$(eval MISSING += $(3)))))
need = $(if $(call has,$(1)),,$(eval MISSING += $(2)))

MISSING := $(if $(shell command -v $(firstword $(CC))),,$(notdir $(firstword $(CC))))
HAVE_PKG_CONFIG := $(shell command -v $(PKG_CONFIG))
ifeq ($(HAVE_PKG_CONFIG),)
MISSING += pkg-config
endif
$(foreach v,WITH_HWLOC WITH_NUMA WITH_URING WITH_CUDA,$(if $(filter-out auto 0 1,$($(v))),$(error $(v)=$($(v)) is not one of auto, 1, 0)))
# What is built without: of what is looked for, what is not there.
COULD_HAVE = $(foreach p,HWLOC/libhwloc-dev NUMA/libnuma-dev URING/liburing-dev CUDA/nvidia-cuda-toolkit,$(if \
    $(filter auto0,$(WITH_$(firstword $(subst /, ,$p)))$($(firstword $(subst /, ,$p)))),$(lastword $(subst /, ,$p)))) \
    $(if $(HAVE_CXX),,g++)
HWLOC := $(call part,WITH_HWLOC,hwloc,libhwloc-dev)
NUMA := $(call part,WITH_NUMA,numa,libnuma-dev)
URING := $(call part,WITH_URING,liburing,liburing-dev)
$(call need,libxxhash,libxxhash-dev)
$(call need,jansson,libjansson-dev)
$(call need,openblas,libopenblas-pthread-dev)
TESTS_MISSING := $(if $(call has,cmocka),,libcmocka-dev)
# nvcc needs g++, whatever CC is. Without nvcc the programs are built without kernels.
CUDA_MISSING := $(if $(shell command -v $(NVCC)),,nvidia-cuda-toolkit) $(if $(shell command -v $(or $(NVCC_CCBIN),g++)),,g++)
CUDA := $(if $(filter 0,$(WITH_CUDA)),0,$(if $(strip $(CUDA_MISSING)),0$(if $(filter 1,$(WITH_CUDA)),$(eval MISSING += $(CUDA_MISSING))),1))
# A C++ compiler is for tests alone: kernels run on the CPU there. Without one these tests are skipped.
HAVE_CXX := $(if $(shell command -v $(firstword $(CXX))),1)
# The Python package: see python/README.md. Not with sanitizers: the interpreter has none.
PYTHON_INCLUDE := $(shell $(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))' 2>/dev/null)
HAVE_PYTHON := $(if $(SAN),,$(wildcard $(PYTHON_INCLUDE)/Python.h))

# Goals that build nothing themselves work without the packages.
BUILDING := $(filter-out gpu-check gpu-bench gpu-help help config deb check fuzz sim demo show layers tidy sources format format-fix shellcheck clean uninstall,$(or $(MAKECMDGOALS),all))
ifneq ($(filter tests,$(BUILDING)),)
MISSING += $(TESTS_MISSING)
endif
ifneq ($(strip $(MISSING)),)
ifneq ($(BUILDING),)
$(shell tools/setup.sh --why $(MISSING) >&2)
$(error missing: $(strip $(MISSING)), as above. On Debian: apt-get install $(strip $(MISSING)), or run tools/setup.sh)
endif
endif

LIB_PKGS := libxxhash jansson $(if $(filter 1,$(HWLOC)),hwloc) $(if $(filter 1,$(NUMA)),numa) $(if $(filter 1,$(URING)),liburing)
EXAMPLE_PKGS := openblas
pkg = $(if $(HAVE_PKG_CONFIG),$(shell $(PKG_CONFIG) $(1) $(2) 2>/dev/null))

# ---- flags -----------------------------------------------------------------

comma := ,

WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion $(if $(WERROR),-Werror)
SAN_address := -fsanitize=address,undefined -fno-sanitize-recover=undefined
SAN_thread := -fsanitize=thread
SAN_undefined := -fsanitize=undefined -fno-sanitize-recover=undefined
# With clang only.
SAN_fuzzer := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined
# What nobody wrote is never what a test happens to expect (gcc 12, clang 14 and newer). Not with AddressSanitizer: gcc
# 12 fills with aligned stores of 64 bytes, which the frames of its detect_stack_use_after_return are not.
SAN_FILL = $(shell $(CC) -ftrivial-auto-var-init=pattern -E -x c /dev/null >/dev/null 2>&1 && \
    echo -ftrivial-auto-var-init=pattern)
# -g1: lines, all that a report names; whole debug information is a third of the time that these builds take.
SAN_FLAGS := $(if $(SAN),$(SAN_$(SAN)) $(if $(filter address,$(SAN)),,$(SAN_FILL)) -O1 -g1 -fno-omit-frame-pointer)

# How tests run under them. OFL_TEST_LIGHT lets tests do with fewer rounds: sanitizers cost
# 2 to 15 times. OpenBLAS is not instrumented, so ThreadSanitizer can't see how its threads
# wait for each other: one thread. cmocka's handlers must not hide AddressSanitizer's report.
# The runtimes of gcc up to 13 take a block of a library's TLS that lies at a certain offset in its page for one of an old
# glibc, and LeakSanitizer then dies at the program's end, one run in many (Mudlet/Mudlet#9809): blocks are not noted.
ENV_undefined := OFL_TEST_LIGHT=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
ENV_address := $(ENV_undefined) ASAN_OPTIONS=detect_leaks=1:strict_string_checks=1:$\
    detect_stack_use_after_return=1:handle_segv=2:handle_sigbus=2:intercept_tls_get_addr=0
ENV_thread := OFL_TEST_LIGHT=1 OPENBLAS_NUM_THREADS=1 TSAN_OPTIONS=halt_on_error=1:second_deadlock_stack=1

CPPFLAGS += -D_GNU_SOURCE -I. -DOFL_WITH_HWLOC=$(HWLOC) -DOFL_WITH_NUMA=$(NUMA) -DOFL_WITH_URING=$(URING)
FLAGS := -std=gnu11 $(CPPFLAGS) $(CFLAGS) $(WARNINGS) -fPIC -fvisibility=hidden -pthread -MMD -MP
# Arithmetic must be the same bits on every machine and in every build: no contraction
# to FMA, no -ffast-math, no -march=native.
MATH_FLAGS := -O3 -ffp-contract=off -fno-math-errno

LIB_LIBS := $(call pkg,--libs,$(LIB_PKGS)) -lm
EXAMPLE_LIBS := $(call pkg,--libs,$(EXAMPLE_PKGS))
FLAGS += $(call pkg,--cflags,$(LIB_PKGS))
EXAMPLE_FLAGS := $(call pkg,--cflags,$(EXAMPLE_PKGS))
LINK_FLAGS = $(CFLAGS) $(SAN_FLAGS) -pthread -Wl,--as-needed $(LDFLAGS)
LINK = $(CC) $(LINK_FLAGS)

# Kernels, for tests, as C++. They look at the same bytes as numbers of different types. To g++,
# a struct and a function of one name, as in the public header, are a case of -Wshadow.
CXX_FLAGS := -std=gnu++17 $(CPPFLAGS) $(CFLAGS) $(filter-out -Wshadow,$(WARNINGS)) -Wno-unknown-pragmas -fPIC -fvisibility=hidden \
    -fno-exceptions -fno-rtti -fno-strict-aliasing -ffp-contract=off -pthread
# clang's check of calls by pointer wants the run-time type information that nothing else here does.
SAN_CXX := $(SAN_FLAGS) $(if $(SAN_FLAGS),$(if $(findstring clang,$(CXX)),-fno-sanitize=function))
# To ThreadSanitizer a kernel's threads are threads; what switches between them it does not see.
SAN_RUN := $(if $(filter thread,$(SAN)),-DFIBER_TSAN -fno-omit-frame-pointer,$(SAN_CXX))
EMULATE := -x c++ -DCUDA_EMULATE -include tests/cuda_emulate.h

NVCC_FLAGS := -fatbin -std=c++17 -O3 -I. $(foreach a,$(NVCC_ARCHS),-gencode arch=compute_$(a)$(comma)code=sm_$(a)) \
    -gencode arch=compute_$(NVCC_PTX)$(comma)code=compute_$(NVCC_PTX) \
    -Xptxas -v --keep $(if $(WERROR),-Werror all-warnings)
# As MATH_FLAGS: the bits that the CPU computes.
NVCC_MATH_FLAGS := -fmad=false -prec-div=true -prec-sqrt=true -ftz=false

# ---- files -----------------------------------------------------------------

ROOMS := base io scheduler $(addprefix liboffload/,mem device store source timeline landing core optim plan)
LIB_SRC := $(wildcard $(ROOMS:=/*.c))
MAINS := $(foreach p,finetune generate hello mlp,$(wildcard examples/$(p).c examples/$(p)_*.c))
SHARED_SRC := $(wildcard examples/model/*.c examples/common*.c)
TEST_SRC := $(wildcard tests/test_*.c)
CUDA_STUB_SRC := $(wildcard tests/cuda_stub*.c)
CUBLAS_STUB_SRC := $(wildcard tests/cublas_stub*.c)
SIM_SRC := $(filter-out tests/sim/main.c,$(wildcard tests/sim/*.c))
FUZZ_SRC := $(wildcard tests/fuzz/*.c)
TEST_HELPER_SRC := $(filter-out $(TEST_SRC) $(CUDA_STUB_SRC) $(CUBLAS_STUB_SRC),$(wildcard tests/*.c))
LIB_CU := $(wildcard liboffload/optim/*.cu liboffload/landing/*.cu)
SHARED_CU := $(wildcard examples/model/*.cu)
# What the stub driver can launch: all kernels, and those that test the emulation itself.
EMULATE_SRC := $(if $(HAVE_CXX),$(wildcard tests/cuda_emulate*.cc))
EMULATE_CU := $(if $(HAVE_CXX),$(LIB_CU) $(SHARED_CU) $(wildcard tests/*.cu))
# Only these tests are linked with the examples (and OpenBLAS).
EXAMPLE_TESTS := $(if $(TEST_SRC),$(shell grep -lE '^.include "(examples/|tests/llama)' $(TEST_SRC)))

C_FILES := $(wildcard include/*.h tools/*.c python/offload/*.[ch] $(foreach d,$(ROOMS) examples examples/model bench tests tests/sim tests/fuzz tests/shim,$(addprefix $(d)/*.,c h cc cu cuh)))
SCRIPTS := .ci/run $(wildcard tools/*.sh tools/*.bash tests/*.sh tests/*.bash python/tests/*.sh)
MAN1 := $(wildcard docs/man/*.1)
MAN3 := $(wildcard docs/man/*.3)

obj = $(patsubst %.c,$(B)/%.o,$(1))
SONAME := liboffload.so.$(SOVERSION)
STATIC := $(B)/liboffload.a
SHARED := $(B)/$(SONAME)
SHARED_OBJ := $(call obj,$(SHARED_SRC))
BENCH_SRC := $(wildcard bench/*.c)
NVME_SHIM_SRC := tests/shim/nvme.c
NVME_SHIM := $(B)/tests/nvme_shim.so
# Tests of what needs no machine: all of bench/ but its main.
BENCH_TESTS := $(if $(TEST_SRC),$(shell grep -lE '^.include "bench/' $(TEST_SRC)))
SHAPES := $(wildcard bench/shapes/*.txt)
PROGRAMS := $(if $(wildcard examples/finetune.c),$(B)/ofl-finetune) $(if $(wildcard examples/generate.c),$(B)/ofl-generate) \
    $(if $(wildcard bench/bench.c),$(B)/ofl-bench)
SMALL := $(patsubst examples/%.c,$(B)/%,$(wildcard examples/hello.c examples/mlp.c))
# Where there is an MPI. Not with sanitizers: what it never frees is not ours.
MPICC := $(if $(SAN),,$(shell command -v mpicc))
MPI_EXAMPLE := $(if $(MPICC),$(B)/mpi_reduce)
TESTS := $(patsubst tests/%.c,$(B)/tests/%,$(TEST_SRC))
CUDA_STUB := $(B)/tests/libcuda_stub.so
CUBLAS_STUB := $(if $(CUBLAS_STUB_SRC),$(B)/tests/libcublas_stub.so)
FATBIN_OBJ := $(patsubst %.cu,$(B)/%.fatbin.o,$(LIB_CU) $(SHARED_CU))
EMULATE_OBJ := $(patsubst %.cc,$(B)/%.cc.o,$(EMULATE_SRC)) $(patsubst %.cu,$(B)/%.cu.o,$(EMULATE_CU))
OBJECTS := $(call obj,$(LIB_SRC) $(MAINS) $(BENCH_SRC) $(SHARED_SRC) $(TEST_SRC) $(TEST_HELPER_SRC) $(SIM_SRC) tests/sim/main.c $(FUZZ_SRC) $(CUDA_STUB_SRC) $(CUBLAS_STUB_SRC))

# ---- targets ---------------------------------------------------------------

.PHONY: help config all tests python wheel deb check fuzz sim demo show layers tidy sources format format-fix shellcheck install uninstall clean FORCE

all: $(STATIC) $(SHARED) $(B)/liboffload.so $(PROGRAMS) $(SMALL) $(MPI_EXAMPLE) ## the library, static and shared, and the programs (default)

tests: $(TESTS) $(if $(HAVE_PYTHON),python) ## the test programs, not run

PYTHON_SRC := $(wildcard python/offload/*.c)
PYTHON_FILES := $(patsubst %,$(B)/%,$(wildcard python/offload/*.py) python/offload/py.typed python/offload/_core.pyi)
python: $(PYTHON_FILES) $(B)/python/offload/_core.abi3.so ## the Python package, for PYTHONPATH=build/python

wheel: all ## a wheel of the Python package, in the build folder; needs pip, setuptools, wheel
	OFL_LINK='$(abspath $(STATIC)) $(LIB_LIBS) -pthread' $(PYTHON) -m pip wheel --no-deps --no-build-isolation -w $(B) ./python
	rm -rf python/build python/offload.egg-info

deb: ## Debian packages, in build/deb, from a copy of the tree; needs debhelper
	$(Q)tools/deb.sh $(B)

check: ## install what is missing, build all, run the tests; CHECK=pattern runs some
	$(Q)tools/setup.sh
	$(Q)$(MAKE) --no-print-directory all tests $(if $(CHECK),,gpu-reports)
	$(Q)$(if $(SAN),$(ENV_$(SAN)) )CHECK='$(CHECK)' tools/run-tests.sh $(B)
	$(if $(CHECK)$(SAN),,$(Q)tools/tidy.sh)

fuzz: ## ten million random requests with faults against a model
	$(Q)tools/setup.sh
	$(Q)$(MAKE) --no-print-directory $(B)/tests/test_io_fuzz
	$(Q)$(if $(SAN),$(ENV_$(SAN)) )OFL_FUZZ_REQUESTS=$${OFL_FUZZ_REQUESTS:-10000000} $(B)/tests/test_io_fuzz

sim: ## random programs against the simulated pager; SEEDS=N, FROM=S
	$(Q)tools/setup.sh
	$(Q)$(MAKE) --no-print-directory $(B)/tests/sim/sim
	$(Q)$(if $(SAN),$(ENV_$(SAN)) )$(B)/tests/sim/sim --seeds $(or $(SEEDS),200000) --from $(or $(FROM),1)

demo: ## install what is missing, build, run the demonstration
	$(Q)tools/setup.sh --demo
	$(Q)$(MAKE) --no-print-directory all
	$(Q)tools/demo.sh $(B)

show: ## install what is missing, build, show the library at work
	$(Q)tools/setup.sh --show
	$(Q)$(MAKE) --no-print-directory all tests
	$(Q)tools/show.sh $(B)

config: ## what was found on this machine
	@echo 'version     $(VERSION), $(SONAME)'
	@echo 'compiler    $(CC)$(if $(SAN), with SAN=$(SAN))$(if $(WERROR), with -Werror)'
	@echo 'folder      $(B)'
	@echo 'io_uring    $(call answer,URING,liburing)'
	@echo 'hwloc       $(call answer,HWLOC,hwloc)'
	@echo 'libnuma     $(call answer,NUMA,numa)'
	@echo 'CUDA        $(if $(filter 1,$(CUDA)),yes ($(shell $(NVCC) --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')) for compute capability $(NVCC_ARCHS),no: built without kernels) [WITH_CUDA=$(WITH_CUDA)]'
	@echo 'kernels     $(if $(HAVE_CXX),tested on the CPU$(comma) with $(CXX),not tested on the CPU: $(CXX) not found)'
	@echo 'libraries   $(foreach p,libxxhash jansson openblas cmocka,$(p) $(call release,$(p)))'
	@echo 'missing     $(or $(strip $(MISSING) $(TESTS_MISSING) $(COULD_HAVE)),nothing)'
	$(if $(strip $(MISSING) $(TESTS_MISSING) $(COULD_HAVE)),@tools/setup.sh --why $(MISSING) $(TESTS_MISSING) $(COULD_HAVE))
answer = $(if $(filter 1,$($(1))),yes ($(call release,$(2))),no) [WITH_$(1)=$(WITH_$(1))]
release = $(or $(call pkg,--modversion,$(1)),(not found))

help: ## this list
	@awk -F ':.* ## ' '/^[a-z-]*:.* ## / { printf "  %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'Variables: CC=clang, SAN=address|thread|undefined, WITH_HWLOC, WITH_NUMA, WITH_URING,'
	@echo '  WITH_CUDA=auto|1|0, NVCC=$(NVCC), NVCC_ARCHS="$(NVCC_ARCHS)", CXX=g++,'
	@echo '  WERROR=1, V=1, B=folder, CHECK=pattern, PREFIX=$(PREFIX), DESTDIR='

layers: ## check every #include against the order of the rooms, and bench/ for circles
	$(Q)tools/layers.sh
	$(Q)tools/circles.sh bench

tidy: ## check sizes of functions and files, unused files, public functions without manual or test
	$(Q)tools/tidy.sh

# What is built, for tools/tidy.sh.
sources:
	@printf '%s\n' $(sort $(LIB_SRC) $(MAINS) $(SHARED_SRC) $(BENCH_SRC) $(TEST_SRC) $(TEST_HELPER_SRC) $(SIM_SRC) tests/sim/main.c $(FUZZ_SRC) $(CUDA_STUB_SRC) examples/mpi_reduce.c \
	    $(CUBLAS_STUB_SRC) $(NVME_SHIM_SRC) $(wildcard python/offload/*.c) $(LIB_CU) $(SHARED_CU) $(wildcard tests/cuda_emulate*.cc tests/*.cu))

format: ## check the format of the C files
	$(Q)$(CLANG_FORMAT) --dry-run -Werror $(C_FILES)

format-fix: ## format the C files
	$(Q)$(CLANG_FORMAT) -i $(C_FILES)

shellcheck: ## check the scripts
	$(Q)shellcheck $(SCRIPTS)

clean: ## remove the folders of all builds
	rm -rf build build-asan build-tsan build-ubsan build-clang build-clang-asan build-clang-tsan build-clang-ubsan build-clang-fuzzer build-bare $(B)

D := $(DESTDIR)$(PREFIX)
DLIB := $(DESTDIR)$(LIBDIR)

install: all $(B)/installed/liboffload.a ## header, libraries, programs, man pages; DESTDIR=, PREFIX=
	install -d $(D)/include $(D)/bin $(DLIB)/pkgconfig
	install -m 644 include/*.h $(D)/include
	install -m 644 $(B)/installed/liboffload.a $(DLIB)
	install -m 755 $(SHARED) $(DLIB)/liboffload.so.$(VERSION)
	ln -sf liboffload.so.$(VERSION) $(DLIB)/$(SONAME)
	ln -sf $(SONAME) $(DLIB)/liboffload.so
	sed -e 's|@PREFIX@|$(PREFIX)|' -e 's|@LIBDIR@|$(LIBDIR:$(PREFIX)/%=$${prefix}/%)|' -e 's|@VERSION@|$(VERSION)|' \
	    -e 's|@LIBS@|$(strip $(LIB_LIBS))|' offload.pc.in >$(DLIB)/pkgconfig/offload.pc
	$(if $(PROGRAMS),install -m 755 $(PROGRAMS) $(D)/bin)
	$(if $(SHAPES),install -d $(D)/share/liboffload/shapes && install -m 644 $(SHAPES) $(D)/share/liboffload/shapes)
	$(if $(MAN1),install -d $(D)/share/man/man1 && install -m 644 $(MAN1) $(D)/share/man/man1)
	$(if $(MAN3),install -d $(D)/share/man/man3 && install -m 644 $(MAN3) $(D)/share/man/man3)
	rm -rf $(B)/man3 && tools/man_pages.sh $(B)/man3 && install -m 644 $(B)/man3/*.3 $(D)/share/man/man3

uninstall: ## remove what install installed
	rm -f $(addprefix $(D)/include/,$(notdir $(wildcard include/*.h))) $(DLIB)/pkgconfig/offload.pc
	rm -f $(DLIB)/liboffload.a $(DLIB)/liboffload.so $(DLIB)/$(SONAME) $(DLIB)/liboffload.so.$(VERSION)
	rm -f $(D)/bin/ofl-finetune $(D)/bin/ofl-generate $(D)/bin/ofl-bench
	rm -f $(addprefix $(D)/share/liboffload/shapes/,$(notdir $(SHAPES)))
	rm -f $(addprefix $(D)/share/man/man1/,$(notdir $(MAN1))) $(addprefix $(D)/share/man/man3/,$(notdir $(MAN3)))
	rm -f $(patsubst %,$(D)/share/man/man3/%.3,$(shell tools/man_pages.sh --list))

# ---- rules -----------------------------------------------------------------

# Everything is compiled again when the compiler or a flag changes.
$(B)/flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(CC) $(CXX) $(FLAGS) $(CXX_FLAGS) $(SAN_FLAGS) $(MATH_FLAGS) $(LDFLAGS)' | cmp -s - $@ || \
	    printf '%s\n' '$(CC) $(CXX) $(FLAGS) $(CXX_FLAGS) $(SAN_FLAGS) $(MATH_FLAGS) $(LDFLAGS)' >$@

$(B)/%.o: %.c $(B)/flags
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(FLAGS) $(EXTRA) $(SAN_FLAGS) -c -o $@ $<

$(call obj,$(filter liboffload/optim/% liboffload/landing/%,$(LIB_SRC))): EXTRA = $(MATH_FLAGS) $(EXTRA_ISA)
# Run only where the processor has them: see liboffload/landing/landing.c and liboffload/optim/update.c.
ifneq ($(findstring x86_64,$(shell $(CC) -dumpmachine 2>/dev/null)),)
$(B)/liboffload/landing/avx2.o: EXTRA_ISA = -mavx2 -mf16c
$(B)/liboffload/optim/update_avx2.o: EXTRA_ISA = -mavx2
$(B)/liboffload/optim/update_avx512.o: EXTRA_ISA = -mavx512f -mavx512bw -mavx512dq -mavx512vl -mprefer-vector-width=512
$(B)/liboffload/landing/avx512.o: EXTRA_ISA = -mavx512f -mavx512bw -mavx512dq -mavx512vl -mf16c
$(B)/liboffload/landing/avx512bf16.o: EXTRA_ISA = -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512bf16 -mf16c
endif
$(call obj,$(filter examples/model/%,$(SHARED_SRC))): EXTRA = $(MATH_FLAGS) $(EXAMPLE_FLAGS)
$(call obj,$(MAINS) $(filter examples/common%,$(SHARED_SRC)) $(EXAMPLE_TESTS) bench/rates.c bench/lazy_blas.c): EXTRA = $(EXAMPLE_FLAGS)

# ---- kernels

$(B)/cuda_flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(CUDA) $(NVCC) $(NVCC_FLAGS) $(NVCC_MATH_FLAGS)' | cmp -s - $@ || \
	    printf '%s\n' '$(CUDA) $(NVCC) $(NVCC_FLAGS) $(NVCC_MATH_FLAGS)' >$@

$(patsubst %.cu,$(B)/%.fatbin,$(LIB_CU)): NVCC_EXTRA = $(NVCC_MATH_FLAGS)

# Without nvcc a text takes the kernels' place, which no driver takes for a module: C needs no #if.
# What the compiler says of each architecture, and its PTX, are kept for tools/gpu_resources.mk: nothing is compiled twice.
$(B)/%.fatbin: %.cu $(B)/cuda_flags
	@mkdir -p $(@D)
ifeq ($(CUDA),1)
	$(call say,NVCC,$<)
	@rm -rf $@.kept && mkdir $@.kept
	$(Q)$(NVCC) $(NVCC_FLAGS) $(NVCC_EXTRA) --keep-dir $@.kept -MMD -MP -MF $@.d -MT $@ -o $@ $< \
	    2>$@.said || { cat $@.said >&2; exit 1; }
	@grep -vE '^ptxas info|^    [0-9]+ bytes stack frame' $@.said >&2; find $@.kept -type f ! -name '*.ptx' -delete
else
	@printf 'no CUDA kernels: built without nvcc\0' >$@
endif

# optim/update.cu is found as optim_update_fatbin, up to optim_update_fatbin_end.
fatbin_symbol = $(notdir $(patsubst %/,%,$(dir $(1))))_$(notdir $(basename $(1)))_fatbin
$(B)/%.fatbin.o: $(B)/%.fatbin $(B)/flags
	$(Q)printf '%s\n' '.section .rodata' '.balign 64' $(foreach s,$(call fatbin_symbol,$<),\
	    '.globl $(s), $(s)_end' '.hidden $(s), $(s)_end' '.type $(s), %object' \
	    '$(s):' '.incbin "$<"' '$(s)_end:' '.size $(s), . - $(s)') \
	    '.section .note.GNU-stack, "", %progbits' | $(CC) -x assembler -c -o $@ -

# As C++, for the stub driver: a list of its kernels is added to each file.
$(B)/%.cu.cc: %.cu tools/kernels.sh $(B)/flags
	@mkdir -p $(@D)
	$(Q)tools/kernels.sh $< $(CXX) $(CXX_FLAGS) -MMD -MP -MF $@.d -MT $@ $(EMULATE) >$@

$(B)/%.cu.o: $(B)/%.cu.cc $(B)/flags
	$(call say,CXX,$(patsubst $(B)/%.cc,%,$<))
	$(Q)$(CXX) $(CXX_FLAGS) $(SAN_CXX) -MMD -MP $(EMULATE) -c -o $@ $<

$(B)/%.cc.o: %.cc $(B)/flags
	$(call say,CXX,$<)
	@mkdir -p $(@D)
	$(Q)$(CXX) $(CXX_FLAGS) $(SAN_RUN) -MMD -MP -c -o $@ $<

# ---- libraries and programs

# With `make clean all`, first the one, then the other.
LISTS := $(addprefix $(B)/,liboffload.list libexamples.list tests/libhelpers.list tests/libbench.list tests/libcuda_stub.list)
$(B)/flags $(B)/cuda_flags $(LISTS): | $(filter clean,$(MAKECMDGOALS))

# An archive is made anew when its list of members changes too, so that none outlives its source.
$(LISTS): FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(MEMBERS)' | cmp -s - $@ || printf '%s\n' '$(MEMBERS)' >$@
$(B)/liboffload.list: MEMBERS = $(LIB_SRC) $(LIB_CU)
$(B)/libexamples.list: MEMBERS = $(SHARED_SRC) $(SHARED_CU)
$(B)/tests/libhelpers.list: MEMBERS = $(TEST_HELPER_SRC)
$(B)/tests/libbench.list: MEMBERS = $(filter-out bench/bench.c,$(BENCH_SRC))
$(B)/tests/libcuda_stub.list: MEMBERS = $(CUDA_STUB_SRC) $(EMULATE_SRC) $(EMULATE_CU)

$(B)/%.a: $(B)/%.list
	$(call say,AR,$@)
	@rm -f $@
	$(Q)$(AR) rcs $@ $(filter %.o,$^)
$(STATIC): $(call obj,$(LIB_SRC)) $(LIB_CU:%.cu=$(B)/%.fatbin.o)
$(B)/libexamples.a: $(SHARED_OBJ) $(SHARED_CU:%.cu=$(B)/%.fatbin.o)
$(B)/tests/libhelpers.a: $(call obj,$(TEST_HELPER_SRC))
$(B)/tests/libbench.a: $(call obj,$(filter-out bench/bench.c,$(BENCH_SRC)))

# For programs of others: one object, in which all but the public symbols are its own, so that no name of theirs can be
# taken for one of ours. Tests link $(STATIC), in which hidden ones can be seen.
$(B)/installed/liboffload.a: $(STATIC)
	$(call say,AR,$@)
	@mkdir -p $(@D)
	@rm -f $@
	$(Q)$(CC) -r -nostdlib -o $(@D)/offload.o -Wl,--whole-archive $(STATIC) -Wl,--no-whole-archive
	$(Q)$(OBJCOPY) --wildcard --keep-global-symbol='ofl_*' $(@D)/offload.o
	$(Q)$(AR) rcs $@ $(@D)/offload.o

# Sanitizers leave their runtime's symbols to the program.
$(SHARED): $(call obj,$(LIB_SRC)) $(LIB_CU:%.cu=$(B)/%.fatbin.o) $(B)/liboffload.list liboffload.map
	$(call say,LD,$@)
	$(Q)$(LINK) -shared -Wl,-soname,$(SONAME) -Wl,--version-script=liboffload.map $(if $(SAN),,-Wl,-z,defs) \
	    -o $@ $(filter %.o,$^) $(LIB_LIBS)

$(B)/liboffload.so: $(SHARED)
	$(Q)ln -sf $(SONAME) $@

$(B)/ofl-finetune: $(call obj,$(filter examples/finetune%,$(MAINS)))
$(B)/ofl-generate: $(call obj,$(filter examples/generate%,$(MAINS)))
$(B)/hello: $(call obj,examples/hello.c)
$(B)/mlp: $(call obj,examples/mlp.c)
# It includes <offload.h>, as what is installed.
$(B)/examples/mlp.o: FLAGS += -Iinclude
$(B)/ofl-bench: $(call obj,$(BENCH_SRC)) | $(SHAPES:bench/%=$(B)/%)
$(PROGRAMS): $(B)/libexamples.a
$(PROGRAMS) $(SMALL): $(STATIC)
	$(call say,LD,$@)
	$(Q)$(LINK) -o $@ $(filter %.o,$^) $(filter %/libexamples.a,$^) $(STATIC) $(if $(filter %/ofl-bench,$@),,$(EXAMPLE_LIBS)) $(LIB_LIBS)

$(B)/mpi_reduce: examples/mpi_reduce.c include/offload.h $(SHARED)
	$(call say,MPICC,$@)
	$(Q)$(MPICC) -std=gnu11 -O2 -ffp-contract=off -Wall -Wextra $(if $(WERROR),-Werror) -Iinclude -o $@ $< -Wl,-rpath,'$$ORIGIN' $(SHARED)

# Where ofl-bench looks for them, beside itself.
$(B)/shapes/%.txt: bench/shapes/%.txt
	@mkdir -p $(@D)
	$(Q)cp $< $@

# Tests see internal symbols: hidden ones are visible inside the static library.
$(patsubst tests/%.c,$(B)/tests/%,$(EXAMPLE_TESTS) $(BENCH_TESTS)): $(B)/libexamples.a
$(patsubst tests/%.c,$(B)/tests/%,$(BENCH_TESTS)): $(B)/tests/libbench.a
$(TESTS): $(B)/tests/%: $(B)/tests/%.o $(B)/tests/libhelpers.a $(STATIC)
	$(call say,LD,$@)
	$(Q)$(LINK) -o $@ $< $(TEST_EXTRA) $(filter %/libbench.a,$^) $(B)/tests/libhelpers.a $(filter %/libexamples.a,$^) $(STATIC) \
	    $(if $(filter %/libexamples.a,$^),$(EXAMPLE_LIBS)) $(LIB_LIBS) $(call pkg,--libs,cmocka)

$(B)/python/%: python/%
	$(Q)mkdir -p $(@D) && cp $< $@

$(B)/python/offload/_core.abi3.so: $(PYTHON_SRC) $(wildcard python/offload/*.h include/*.h) $(SHARED)
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -O2 $(WARNINGS) -fPIC -fvisibility=hidden -shared -I. -Iinclude -isystem $(PYTHON_INCLUDE) -o $@ $(PYTHON_SRC) -Wl,-rpath,'$$ORIGIN/../..' $(SHARED)

# The core in a simulation. Allocations of the whole program pass through tests/sim/alloc.c.
SIM := $(B)/tests/sim/sim
SIM_WRAP := $(foreach f,malloc calloc realloc aligned_alloc free strdup,-Wl,--wrap=$(f))
$(SIM): $(call obj,tests/sim/main.c $(SIM_SRC)) $(STATIC)
	$(call say,LD,$@)
	$(Q)$(LINK) $(SIM_WRAP) -o $@ $(filter %.o,$^) $(STATIC) $(LIB_LIBS)

# The loaders under libFuzzer: see tools/fuzz-loaders.sh.
$(B)/tests/fuzz/loaders: $(call obj,$(FUZZ_SRC)) $(B)/tests/libhelpers.a $(B)/libexamples.a $(STATIC)
	$(call say,LD,$@)
	$(Q)$(LINK) -fsanitize=fuzzer -o $@ $(filter %.o,$^) $(B)/tests/libhelpers.a $(B)/libexamples.a $(STATIC) \
	    $(EXAMPLE_LIBS) $(LIB_LIBS) $(call pkg,--libs,cmocka)

$(B)/tests/test_sim: $(call obj,$(SIM_SRC))
$(B)/tests/test_sim: TEST_EXTRA = $(call obj,$(SIM_SRC)) $(SIM_WRAP)
# This one has them fail itself.
$(B)/tests/test_core_memory: TEST_EXTRA = $(SIM_WRAP)
$(B)/tests/test_extent: TEST_EXTRA = -Wl,--wrap=malloc
$(B)/tests/test_core_engine: TEST_EXTRA = -Wl,--wrap=pthread_mutex_lock,--wrap=pthread_mutex_unlock

# The one file that looks at CUDA's own header, where there is one.
$(B)/tests/test_cuda_driver.o: EXTRA = $(patsubst %/cuda.h,-isystem %,$(wildcard $(CUDA_HOME)/include/cuda.h))

# A CUDA driver and a cuBLAS without a GPU, which tests have the library and the examples load.
$(TESTS): | $(CUDA_STUB) $(CUBLAS_STUB)

# Preloaded into nvme-cli by tests/smart.sh: without sanitizers, which that has not.
$(B)/tests/test_io_smart: | $(NVME_SHIM)
$(NVME_SHIM): $(NVME_SHIM_SRC) $(B)/flags
	$(call say,LD,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) -std=gnu11 -D_GNU_SOURCE -O2 $(WARNINGS) -fPIC -shared -o $@ $<

$(CUDA_STUB): $(call obj,$(CUDA_STUB_SRC)) $(EMULATE_OBJ) $(B)/tests/libcuda_stub.list
	$(call say,LD,$@)
	$(Q)$(if $(HAVE_CXX),$(CXX),$(CC)) $(LINK_FLAGS) -shared -Wl,-z,start-stop-visibility=hidden -o $@ $(filter %.o,$^) -lm

$(CUBLAS_STUB): $(call obj,$(CUBLAS_STUB_SRC))
	$(call say,LD,$@)
	$(Q)$(LINK) -shared -o $@ $(filter %.o,$^) $(EXAMPLE_LIBS)
$(call obj,$(CUBLAS_STUB_SRC)): EXTRA = $(EXAMPLE_FLAGS)

# Kept: they are somebody's prerequisite by pattern only.
.SECONDARY: $(OBJECTS) $(FATBIN_OBJ) $(FATBIN_OBJ:.o=) $(EMULATE_OBJ) $(EMULATE_CU:%.cu=$(B)/%.cu.cc)

include tools/gpu_resources.mk

-include $(OBJECTS:.o=.d) $(EMULATE_OBJ:.o=.d) $(EMULATE_CU:%.cu=$(B)/%.cu.cc.d) $(FATBIN_OBJ:.o=.d)
