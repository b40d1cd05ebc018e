# Included by the Makefile, at its end: what the kernels take of a GPU, from the compiler's own report, and
# whether their launch bounds agree with it. No GPU is needed, but nvcc.

GPU_ARCHS := $(if $(filter 1,$(CUDA)),$(filter $(patsubst sm_%,%,$(NVCC_CODES)),80 89 90 100 120))
GPU_CU := $(LIB_CU) $(SHARED_CU)
GPU_REPORTS := $(foreach a,$(GPU_ARCHS),$(GPU_CU:%.cu=$(B)/%.sm_$(a).txt))
GPU_RESOURCES := docs/gpu-resources.md

# The PTX has the bounds; what ptxas makes of it, the rest. Both are left by the rule that makes the fatbin, for the
# architectures that it is of; for others the kernels are compiled here.
# One alone has no name of its own there.
GPU_KEPT := $(if $(word 2,$(NVCC_ARCHS)),$(NVCC_ARCHS))
define gpu_report_kept
$$(B)/%.sm_$(1).txt: $$(B)/%.fatbin
	$$(Q)grep -ohE '\.(entry|maxntid|minnctapersm) [^(]*' $$<.kept/*.compute_$(1).ptx >$$@.part
	$$(Q)awk '/Compiling entry function/ { of = / .sm_$(1).$$$$/ } of' $$<.said >>$$@.part && mv $$@.part $$@
endef
define gpu_report
$$(B)/%.sm_$(1).txt: %.cu $$(B)/cuda_flags
	$$(call say,PTXAS,$$<:sm_$(1))
	@mkdir -p $$(@D)
	$$(Q)$$(NVCC) -ptx -std=c++17 -O3 -I. -arch=compute_$(1) $$(NVCC_EXTRA) -MMD -MP -MF $$@.d -MT $$@ -o $$@.ptx $$<
	$$(Q)grep -oE '\.(entry|maxntid|minnctapersm) [^(]*' $$@.ptx >$$@.part
	$$(Q)$$(NVCC) -cubin -arch=sm_$(1) $$(NVCC_EXTRA) -Xptxas -v -o $$@.cubin $$@.ptx >>$$@.part 2>&1
	$$(Q)rm -f $$@.ptx $$@.cubin && mv $$@.part $$@
endef
$(foreach a,$(GPU_ARCHS),$(eval $(call $(if $(filter $(a),$(GPU_KEPT)),gpu_report_kept,gpu_report),$(a))))
$(foreach a,$(GPU_ARCHS),$(LIB_CU:%.cu=$(B)/%.sm_$(a).txt)): NVCC_EXTRA = $(NVCC_MATH_FLAGS)

# The launchers themselves, with a list in the place of a GPU.
$(B)/tools/gpu_launches: $(B)/tools/gpu_launches.o $(B)/libexamples.a $(STATIC)
	$(call say,LD,$@)
	$(Q)$(LINK) -o $@ $< $(B)/libexamples.a $(STATIC) $(EXAMPLE_LIBS) $(LIB_LIBS)

.PHONY: gpu-reports gpu-resources gpu-resources-check

# Where kernels are compiled for it, minutes: make check does it before its tests, which have a limit.
gpu-reports: $(if $(GPU_ARCHS),$(B)/tools/gpu_launches $(GPU_REPORTS))

gpu-resources: ## what the kernels take of a GPU, into docs/gpu-resources.md; fails where launch bounds disagree
gpu-resources gpu-resources-check: gpu-reports
	$(Q)$(if $(GPU_ARCHS),tools/gpu_resources.sh $(if $(filter %-check,$@),check,write) $(GPU_RESOURCES) \
	    $(B)/tools/gpu_launches '$(NVCC_RELEASE)' $(GPU_REPORTS),echo 'skipped: built without nvcc'; exit $(if $(filter %-check,$@),77,0))

-include $(GPU_REPORTS:=.d) $(B)/tools/gpu_launches.d
