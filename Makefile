# The front door. Every command sets up and builds what it needs first.
# SPDX-License-Identifier: Apache-2.0
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup build run test bench chaos lint clean

help: ## Prints this
	@echo 'Sluice: posts in over HTTP, exactly once into Delta tables, answers out.'; echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1@\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F@ '{ printf "%-14s %s\n", $$1, $$2 }'

setup: ## Installs what is missing (Debian packages; the rest into SLUICE_CACHE, default ~/.cache/sluice)
	@scripts/setup

build: ## Builds the release binaries into build/release/bin
	@scripts/setup --quiet
	@scripts/build release

run: build ## Runs it all on this machine with generated posts (ARGS="--once --rows 2000")
	@./sluice demo $(ARGS)

test: ## Runs the tests (FAST=1: without real Kafka; SAN=all: end to end under sanitizers too)
	@FAST='$(FAST)' SAN='$(SAN)' scripts/test

bench: build ## Measures against references (ROW=name: one row)
	@ROW='$(ROW)' scripts/bench

chaos: ## Kills everything, 500 times, and checks every record (KILLS=n)
	@KILLS='$(KILLS)' scripts/chaos

lint: ## Checks layers, banned calls and format
	@scripts/setup --quiet
	@scripts/lint

clean: ## Removes what was built and what make run left
	@[ ! -d .run ] || ./sluice down --state .run
	@rm -rf build .run .pytest_cache
