# make · make demo · make test · make bench · make reproduce · make lint · make format · make asan · make tsan · make fuzz · make install · make clean
# Sources are found by wildcard: a new file needs no edit here. The suffix of a file in engine/cpu/isa/ picks its flags.

BUILD   ?= build
PREFIX  ?= /usr/local
JOBS    ?= $(shell nproc)
CXX     := $(shell command -v ccache >/dev/null 2>&1 && echo ccache) g++
STD     := -std=c++20
WARN    := -Wall -Wextra -Werror
OPT     ?= -O2 -g1
# -ffp-contract=off: results must not depend on what a compiler chooses to fuse; kernels fuse explicitly. Nobody reads errno or
# the floating-point flags: without them sqrt and selections vectorise (no value changes).
CXXFLAGS ?=
ALL_CXXFLAGS = $(STD) $(WARN) $(OPT) -ffp-contract=off -fno-math-errno -fno-trapping-math -pthread -I. -isystem /usr/include/eigen3 -MMD -MP $(CXXFLAGS)
LDLIBS  := -lfmt -lyaml-cpp -lonig -lutf8proc -lsentencepiece -lxxhash -lcpp-httplib -lssl -lcrypto -pthread
MAKEFLAGS += --no-print-directory

# MPI where it is installed (make deps tries to); MPI=no builds without.
MPI ?= $(if $(shell command -v mpicxx 2>/dev/null),yes,no)
ifeq ($(MPI),yes)
MPI_FLAGS := -DOMPI_SKIP_MPICXX $(patsubst -I%,-isystem %,$(shell mpicxx --showme:compile))
LDLIBS    += $(filter-out -lmpi_cxx,$(shell mpicxx --showme:link))
endif

ISA_avx2       := -mavx2 -mfma -mf16c -O3
ISA_avx512     := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma -mf16c -O3
ISA_avx512bf16 := $(ISA_avx512) -mavx512bf16
ISA_amx        := $(ISA_avx512bf16) -mamx-tile -mamx-bf16

LIB_SRC  := $(filter-out engine/comm_%mpi.cpp,$(wildcard engine/*.cpp)) engine/comm_$(if $(filter yes,$(MPI)),,no_)mpi.cpp
LIB_SRC  += $(wildcard engine/cpu/*.cpp engine/cpu/isa/*.cpp engine/ops/*.cpp io/*.cpp model/*.cpp) cuda/no_cuda.cpp
APP_SRC  := $(wildcard apps/*.cpp)
TEST_SRC := $(wildcard tests/*.cpp tests/kernels/*.cpp)
obj = $(patsubst %.cpp,$(BUILD)/%.o,$(1))
LIB_OBJ  := $(call obj,$(LIB_SRC))
APP_OBJ  := $(call obj,$(APP_SRC))
TEST_OBJ := $(call obj,$(TEST_SRC))
TEST_ARGS ?=

.PHONY: all deps demo reproduce bench embedded-model embedded-dense-model test lint format asan tsan fuzz install clean
all: deps
	@$(MAKE) -j$(JOBS) $(BUILD)/sutor

deps:
	@third_party/install.sh build
	@third_party/install.sh --try mpi

$(BUILD)/sutor: $(APP_OBJ) $(LIB_OBJ)
	$(CXX) $(CXXFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/sutor_tests: $(TEST_OBJ) $(filter-out $(BUILD)/apps/main.o,$(APP_OBJ)) $(LIB_OBJ)
	$(CXX) $(CXXFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/kernel_tests: $(call obj,tests/main.cpp tests/comm.cpp $(wildcard tests/kernels/*.cpp)) $(filter $(BUILD)/engine/% $(BUILD)/cuda/%,$(LIB_OBJ))
	$(CXX) $(CXXFLAGS) -o $@ $^ $(LDLIBS)

$(BUILD)/%.o: %.cpp
	@mkdir -p $(@D)
	@echo "  CXX  $<"; $(CXX) $(ALL_CXXFLAGS) $(ISA_$(lastword $(subst _, ,$(basename $(notdir $<))))) $(if $(filter %comm_mpi.cpp,$<),$(MPI_FLAGS)) -c -o $@ $<

$(BUILD)/model/embedded.o: $(addprefix recipes/embedded/,config.json model.safetensors tokenizer.json tokenizer_config.json) \
  $(addprefix recipes/embedded-dense/,config.json model.safetensors)

# The main job on the embedded model, in build/demo.
demo: all
	@rm -rf $(BUILD)/demo
	$(BUILD)/sutor demo --out $(BUILD)/demo

# All held-out tasks, three seeds: rewrites docs/results*.md; full fine-tuning and LoRA at the rate that is best for the task, and
# at a lower one, where they forget less.
REPRODUCE = $(BUILD)/sutor demo --tasks all --seeds 3 --eval-rows 160
reproduce: all
	@rm -rf $(BUILD)/reproduce
	@mkdir -p $(BUILD)/reproduce
	$(REPRODUCE) --markdown docs/results.md --out $(BUILD)/reproduce/all
	$(REPRODUCE) --methods vanilla,full --lr 3e-4 --markdown docs/results-full-low-lr.md --out $(BUILD)/reproduce/full
	$(REPRODUCE) --methods vanilla,lora --lr 1e-3 --markdown docs/results-lora-low-lr.md --out $(BUILD)/reproduce/lora
	$(BUILD)/sutor demo --method pesc --seeds 3 --markdown docs/results-pesc.md --out $(BUILD)/reproduce/pesc

# What this machine can do and how near the kernels come: run it on a quiet one.
bench: all
	SUTOR=$(BUILD)/sutor bench/performance.sh

# Train the embedded models anew.
embedded-model: all
	recipes/embedded/make.sh
embedded-dense-model: all
	recipes/embedded/make.sh embedded-dense

test: deps
	@$(MAKE) -j$(JOBS) $(BUILD)/sutor $(BUILD)/sutor_tests
	@BUILD=$(BUILD) $(MAKE) lint
	SUTOR=$(BUILD)/sutor $(BUILD)/sutor_tests $(TEST_ARGS)

lint:
	@tests/lint.sh

format:
	@third_party/install.sh dev
	@git ls-files '*.cpp' '*.h' | xargs clang-format-14 -i

asan:
	@third_party/install.sh build
	@$(MAKE) -j$(JOBS) BUILD=$(BUILD)/asan OPT="-O1 -g" CXXFLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all" $(BUILD)/asan/sutor $(BUILD)/asan/sutor_tests
	SUTOR=$(BUILD)/asan/sutor $(BUILD)/asan/sutor_tests $(TEST_ARGS)

# The kernels, the thread pool, messages between ranks as threads.
tsan:
	@third_party/install.sh build
	@$(MAKE) -j$(JOBS) BUILD=$(BUILD)/tsan OPT="-O1 -g" CXXFLAGS="-fsanitize=thread" $(BUILD)/tsan/kernel_tests
	$(BUILD)/tsan/kernel_tests $(TEST_ARGS)

# Each target of tests/fuzz for FUZZ_SECONDS from its seeds, with clang's libFuzzer and sanitizers. clang 14 has no _Float16 here,
# and no half is converted, so any type of two bytes will do.
FUZZ_SECONDS ?= 5
FUZZ     := $(patsubst tests/fuzz/%.cpp,%,$(wildcard tests/fuzz/*.cpp))
FUZZ_OBJ := $(patsubst %.cpp,$(BUILD)/fuzz/%.o,$(wildcard io/*.cpp) engine/tensor.cpp model/esft.cpp model/names.cpp)
FUZZ_CXX  = clang++ $(STD) -O1 -g -D_Float16=short -I. -MMD -MP

$(BUILD)/fuzz/%.o: %.cpp
	@mkdir -p $(@D)
	@echo "  FUZZ $<"; $(FUZZ_CXX) -fsanitize=fuzzer-no-link,address,undefined -c -o $@ $<

$(addprefix $(BUILD)/fuzz_,$(FUZZ)): $(BUILD)/fuzz_%: $(BUILD)/fuzz/tests/fuzz/%.o $(FUZZ_OBJ)
	@clang++ -fsanitize=fuzzer,address,undefined -o $@ $^ $(LDLIBS)

fuzz:
	@third_party/install.sh build dev
	@$(MAKE) -j$(JOBS) $(addprefix $(BUILD)/fuzz_,$(FUZZ))
	@for t in $(FUZZ); do \
	  mkdir -p $(BUILD)/fuzz/corpus/$$t; echo "  RUN  $$t"; \
	  $(BUILD)/fuzz_$$t -max_total_time=$(FUZZ_SECONDS) -timeout=10 -rss_limit_mb=4096 -max_len=4096 -verbosity=0 -print_funcs=0 -print_final_stats=1 \
	    -artifact_prefix=$(BUILD)/fuzz/$$t- $(BUILD)/fuzz/corpus/$$t tests/fuzz/seeds/$$t || exit 1; \
	done

install: all
	install -D -m 755 $(BUILD)/sutor $(DESTDIR)$(PREFIX)/bin/sutor

clean:
	rm -rf $(BUILD)

-include $(patsubst %.o,%.d,$(LIB_OBJ) $(APP_OBJ) $(TEST_OBJ) $(FUZZ_OBJ))
