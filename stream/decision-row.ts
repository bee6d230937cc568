// A decision as PostgreSQL's own text, Avro strings or our JSON spell it. Anything that cannot be read throws: a row that is
// skipped silently is an opt-out that is lost silently (the ledger would re-drive it, and count it). What can be read can be
// acknowledged: the API refuses a whole report for one number of 0, and whoever writes to a topic may name any.
import { z } from 'zod';
import { CAUSES } from '../suppression/decision.ts';
import type { Decision } from '../suppression/decision.ts';
import { SUBJECT_KINDS } from '../suppression/subject-kind.ts';

/** A number from 1 on, or text that spells one: coercion would read null and an empty text as 0, and 0x10 as 16. */
const Long = z.preprocess(
  (value) =>
    typeof value === 'bigint' || (typeof value === 'string' && /^\d{1,16}$/.test(value))
      ? Number(value)
      : value,
  z.int().min(1),
);
/** Without a zone, a time would be read as local to this machine. */
const ZONED = /:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}(?::?\d{2})?)$/;
const Instant = z.preprocess(
  (value) => (value instanceof Date && !Number.isNaN(value.getTime()) ? value.toISOString() : value),
  z.string().transform((text, context) => {
    const ms = ZONED.test(text) ? Date.parse(text) : NaN;
    if (!Number.isNaN(ms)) return new Date(ms).toISOString();
    context.addIssue({ code: 'custom', message: 'must be a time with its zone' });
    return z.NEVER;
  }),
);
const parsed = <T extends z.ZodType>(schema: T) =>
  z.preprocess((value) => (typeof value === 'string' ? (JSON.parse(value) as unknown) : value), schema);
const Suppressed = z.record(z.string(), z.string());
const Granted = z.record(z.string(), z.object({ at: z.string(), version: Long }));

const Row = z.object({
  seq: Long,
  cause: z.enum(CAUSES).optional(),
  opt_out_id: z.string().nullish(),
  subject_id: z.uuid(),
  kind: z.enum(SUBJECT_KINDS),
  version: Long,
  suppressed: parsed(Suppressed),
  granted: parsed(Granted),
  effective_at: Instant,
  recorded_at: Instant,
  /** Bytes from a stream, base64url from JSON. */
  sealed: z.union([z.instanceof(Uint8Array), z.string()]).nullish(),
  transport_key_id: Long.nullish(),
  traceparent: z.string().nullish(),
});

/** Thrown if a row is not a decision; it names the column and never the value. */
export class UnreadableRow extends Error {
  override readonly name = 'UnreadableRow';
}

/** Reads one row, by the captured columns' names. Throws UnreadableRow. */
export function toDecision(row: unknown): Decision {
  let result: ReturnType<typeof Row.safeParse>;
  try {
    result = Row.safeParse(row);
  } catch {
    throw new UnreadableRow('A decision row has JSON that cannot be read.');
  }
  if (!result.success) {
    // What stands within a column may be anything, an address as well.
    const columns = new Set(result.error.issues.map(({ path: [column] }) => String(column ?? 'all of it')));
    throw new UnreadableRow(`A decision row cannot be read: ${[...columns].join(', ')}.`);
  }
  const { data } = result;
  const { sealed } = data;
  return {
    seq: data.seq,
    optOutId: data.opt_out_id ?? undefined,
    subjectId: data.subject_id,
    kind: data.kind,
    version: data.version,
    suppressed: data.suppressed,
    granted: data.granted,
    effectiveAt: data.effective_at,
    recordedAt: data.recorded_at,
    sealed:
      sealed === null || sealed === undefined || typeof sealed === 'string'
        ? (sealed ?? undefined)
        : Buffer.from(sealed).toString('base64url'),
    transportKeyId: data.transport_key_id ?? undefined,
    traceparent: data.traceparent ?? undefined,
  };
}
