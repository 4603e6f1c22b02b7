#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# do - every verb of this project on one page. `./do` lists them; `./do VERB` needs no preparation:
# packages that are missing are installed first (scripts/packages), then things are built.
#
# How to read it: a verb is a function do_VERB, the comment line "## verb: text" above it is what
# the list prints. Words after the verb go to the program behind it.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")"

sources() {
	git ls-files --cached --others --exclude-standard -- '*.c' '*.h'
}

## build: configure and compile into build/
do_build() {
	scripts/packages need build
	[ -f build/build.ninja ] || meson setup build
	ninja -C build
}

## demo: a mirror over NVMe/TCP loses replicas under load, serves on, rebuilds, is proved equal
do_demo() {
	scripts/packages want hosts
	do_build
	scripts/demo "$@"
}

## test [PART...]: every test, at most 15 minutes; the last line counts passed, failed, skipped
do_test() {
	scripts/packages want lint test hosts
	do_build
	scripts/test "$@"
}

## quick: format, lint and unit tests in under 30 seconds; run it before a commit
do_quick() {
	scripts/packages want lint
	do_build
	scripts/test format lint unit "$@"
}

## bench [ARGS]: measure each layer against its floor
do_bench() {
	scripts/packages want test
	do_build
	tests/bench/run "$@"
}

## sim [ARGS]: 2,000 stacks, 5,000 pairs, 20,000 mirrors simulated; or one: --seed N --trace
do_sim() {
	do_build
	[ $# -gt 0 ] || set -- --full
	tests/sim/run "$@"
}

## fuzz [ARGS]: libFuzzer on everything that parses foreign bytes
do_fuzz() {
	scripts/packages need build test
	tests/fuzz/run "$@"
	if [ $# -eq 0 ]; then # a live target too: damaged sessions, under sanitizers
		scripts/sanitize asan --list >/dev/null
		tests/fuzz/live_target.py --build build-asan --time 60
	fi
}

## fmt: format every C file in place
do_fmt() {
	scripts/packages need lint
	sources | xargs -r clang-format-14 -i
}

## lint: the house rules: include arrows, lengths, essays, spelling (scripts/lint)
do_lint() {
	scripts/packages need build
	scripts/packages want lint
	scripts/test format lint lint-test
}

## asan: unit tests under AddressSanitizer and UndefinedBehaviorSanitizer, in build-asan/
do_asan() {
	scripts/packages need build
	scripts/test asan
}

## tsan: unit tests under ThreadSanitizer, in build-tsan/
do_tsan() {
	scripts/packages need build
	scripts/test tsan
}

## hosts [ARGS]: real Linux kernels in QEMU as NVMe/TCP hosts
do_hosts() {
	scripts/packages need build hosts
	do_build
	tests/hosts/run "$@"
}

## man [PAGE]: read a manual page from the tree, for example ./do man ashlar-uri
do_man() {
	local page=${1:-ashlar}
	scripts/packages want lint
	if ! compgen -G "man/$page.[0-9]" >/dev/null; then
		echo "./do man: there is no page '$page'; pages:" \
			"$(cd man && echo ./*.[0-9] | sed -E 's,\./([^ ]*)\.[0-9],\1,g')" >&2
		return 2
	fi
	if command -v man >/dev/null; then
		man -l man/"$page".[0-9]
	else
		mandoc man/"$page".[0-9]
	fi
}

## install [MESON ARGS]: install what build/ holds (prefix /usr/local; --destdir DIR for packagers)
do_install() {
	do_build
	meson install -C build --no-rebuild "$@"
}

list_verbs() {
	echo "usage: ./do VERB [ARGUMENT...]"
	sed -n 's/^## \([^:]*\): \(.*\)/\1\t\2/p' ./do | while IFS=$'\t' read -r verb text; do
		printf '  %-22s %s\n' "$verb" "$text"
	done
}

verb=${1:-}
if [ -z "$verb" ] || [ "$verb" = help ] || [ "$verb" = --help ] || [ "$verb" = -h ]; then
	list_verbs
elif declare -F "do_$verb" >/dev/null; then
	shift
	"do_$verb" "$@"
else
	echo "./do: there is no verb '$verb'" >&2
	list_verbs >&2
	exit 2
fi
