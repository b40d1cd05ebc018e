# Included by the Makefile, after its variables: what is for machines with a GPU, and libraries
# from the folder of tools/gpu_sysroot.sh where the machine has no packages of them.

ifneq ($(OFL_SYSROOT),)
export OFL_SYSROOT := $(abspath $(OFL_SYSROOT))
SYSROOT_LIB := $(patsubst %/pkgconfig/,%,$(dir $(firstword $(wildcard $(OFL_SYSROOT)/usr/lib/*/pkgconfig/hwloc.pc))))
ifeq ($(SYSROOT_LIB),)
$(error OFL_SYSROOT=$(OFL_SYSROOT) has no usr/lib/*/pkgconfig/hwloc.pc: tools/gpu_sysroot.sh makes such a folder)
endif
PKG_CONFIG := env LD_LIBRARY_PATH=$(SYSROOT_LIB) PKG_CONFIG_LIBDIR=$(SYSROOT_LIB)/pkgconfig $(OFL_SYSROOT)/usr/bin/pkgconf
# The old kind of path is searched for what libraries load, too.
LDFLAGS += -Wl,--disable-new-dtags,-rpath,$(SYSROOT_LIB)
endif

.PHONY: gpu-check gpu-bench gpu-help

gpu-check: ## build, and run the tests on the GPU of this machine; compute-sanitizer, if it is there
	+$(Q)MAKE='$(MAKE)' tools/gpu_check.sh $(B)

gpu-bench: ## measure link, steps, generation and PyTorch on the GPU; JSON below bench/results
	+$(Q)MAKE='$(MAKE)' tools/gpu_bench.sh $(B)

help: gpu-help
gpu-help:
	@awk -F ':.* ## ' '/^gpu-[a-z-]*:.* ## / { printf "  %-12s %s\n", $$1, $$2 }' tools/gpu.mk tools/gpu_resources.mk
