/* SPDX-License-Identifier: Apache-2.0 */
/* What a child's error means, as the contract with clients has it. */
#include "nexus/verdict.h"

#include "base/tap.h"

TEST(rows_of_the_contract)
{
	static const struct {
		const char *name;
		uint16_t status;
		enum child_action read, write;
		enum nexus_reason reason;
	} rows[] = {
		{ "invalid opcode", IO_UNSUPPORTED, CHILD_KEEP, CHILD_KEEP, 0 },
		{ "reservation conflict", IO_RESERVED, CHILD_SHUTDOWN, CHILD_SHUTDOWN, 0 },
		{ "aborted, queue deleted", 0x8008, CHILD_RETIRE, CHILD_RETIRE,
		  NEXUS_REASON_IO_ERROR },
		{ "no space", IO_NO_SPACE, CHILD_RETIRE, CHILD_RETIRE, NEXUS_REASON_NO_SPACE },
		{ "read error", IO_READ_ERROR, CHILD_REPAIR, CHILD_RETIRE, NEXUS_REASON_IO_ERROR },
		{ "corrupt", IO_CORRUPT, CHILD_REPAIR, CHILD_RETIRE, NEXUS_REASON_IO_ERROR },
		{ "write error", IO_WRITE_ERROR, CHILD_RETIRE, CHILD_RETIRE,
		  NEXUS_REASON_IO_ERROR },
		{ "no memory", IO_NO_MEMORY, CHILD_AGAIN, CHILD_AGAIN, NEXUS_REASON_IO_ERROR },
		{ "not ready", IO_NOT_READY, CHILD_AGAIN, CHILD_AGAIN, NEXUS_REASON_IO_ERROR },
		{ "timed out", IO_TIMED_OUT, CHILD_RETIRE, CHILD_RETIRE, NEXUS_REASON_TIMED_OUT },
		{ "transport", IO_TRANSPORT, CHILD_RETIRE, CHILD_RETIRE, NEXUS_REASON_IO_ERROR },
		{ "data transfer", IO_TRANSFER, CHILD_RETIRE, CHILD_RETIRE, NEXUS_REASON_IO_ERROR },
		{ "removed", IO_NO_DEVICE, CHILD_RETIRE, CHILD_RETIRE, NEXUS_REASON_IO_ERROR },
		{ "miscompare", IO_MISCOMPARE, CHILD_KEEP, CHILD_KEEP, 0 },
		{ "unwritten", IO_UNWRITTEN, CHILD_KEEP, CHILD_KEEP, 0 },
		{ "vendor", 0x8000 | 0x7c0, CHILD_RETIRE, CHILD_RETIRE, NEXUS_REASON_IO_ERROR },
	};

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		static const enum io_op writing[] = { IO_WRITE, IO_WRITE_ZEROES, IO_UNMAP, IO_FLUSH,
						      IO_RESET };

		TAP_ROW(rows[i].name);
		CHECK_EQ(child_verdict(IO_READ, rows[i].status).action, rows[i].read);
		for (size_t k = 0; k < ARRAY_LEN(writing); k++) {
			struct child_verdict verdict = child_verdict(writing[k], rows[i].status);

			CHECK_EQ(verdict.action, rows[i].write);
			if (verdict.action != CHILD_KEEP && verdict.action != CHILD_SHUTDOWN)
				CHECK_EQ(verdict.reason, rows[i].reason);
		}
	}
}

TEST(errors_have_names_and_classes)
{
	for (unsigned why = 0; why < NEXUS_E_COUNT_; why++) {
		struct nexus_err ne = {};

		CHECK(nexus_error_name(why) != NULL);
		CHECK_EQ(nexus_error_class(why) == NEXUS_CLASS_OK, why == NEXUS_OK);
		if (why != NEXUS_OK) {
			CHECK(nexus_fail(&ne, why, "x") < 0);
			CHECK_EQ(ne.why, why);
			(void)nexus_fail(&ne, NEXUS_E_INTERNAL, "around it");
			CHECK_EQ(ne.why, why); /* the first cause */
			CHECK_HAS(err_text(&ne.err), "x");
		}
	}
	CHECK_EQ(nexus_error_class(NEXUS_E_UUID_EXISTS), NEXUS_CLASS_INTERNAL);
	CHECK_EQ(nexus_error_class(NEXUS_E_NAME_EXISTS), NEXUS_CLASS_ALREADY_EXISTS);
	CHECK_EQ(nexus_error_class(NEXUS_E_RESIZE), NEXUS_CLASS_FAILED_PRECONDITION);
}

TAP_MAIN()
