import { performance } from 'node:perf_hooks';
import type { Context } from 'koa';
import { z } from 'zod';
import { REASONS } from '../../ledger/ledger.ts';
import type { FoundOptOut, Ledger, Propagation, Recorded } from '../../ledger/ledger.ts';
import { AbideError } from '../../suppression/errors.ts';
import type { Fault } from '../../suppression/errors.ts';
import { CHANNELS } from '../../suppression/scope.ts';
import type { Channel } from '../../suppression/scope.ts';
import type { Instant, SubjectState } from '../../suppression/decision.ts';
import { KIND_OF_CHANNEL, mask } from '../../suppression/subject.ts';
import type { SubjectKind } from '../../suppression/subject.ts';
import { authorizedOf } from '../guard/authorize.ts';
import { goneSignal, PREFER, PREFERENCE_APPLIED, preferredWait, waited } from '../guard/prefer.ts';
import { parse, queryInteger, readJson } from '../guard/read-body.ts';
import { traceparentOf } from '../guard/trace.ts';
import { exampleProblem, Id, Instant as InstantAnswered } from '../operation.ts';
import type { HeaderField, Operation, Routes } from '../operation.ts';
import type { Deps } from './deps.ts';
import { createSubjectSchema, MaskedSubject } from './subject.ts';

// RFC 3339 with an offset; what Date.parse accepts beyond it (months by name, a missing zone, 24:00) is refused.
const RFC3339 =
  /^\d{4}-\d{2}-\d{2}[Tt ](?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d+)?(?:[Zz]|[+-](?:[01]\d|2[0-3]):[0-5]\d)$/;
/** From 1970 to the year 9999: beyond it an offset would make an instant that neither sorts as text nor is a date in SQL. */
const INSTANT_MS_MAX = Date.UTC(9999, 11, 31, 23, 59, 59, 999);
const DAYS = (year: number, month: number): number => new Date(Date.UTC(year, month, 0)).getUTCDate();

export const toInstant = (text: string): Instant | undefined => {
  if (!RFC3339.test(text)) return undefined;
  const ms = Date.parse(text.replace(' ', 'T').toUpperCase());
  // Date.parse lets the 31st of February run over into March.
  const day = Number(text.slice(8, 10));
  const isThere = day <= DAYS(Number(text.slice(0, 4)), Number(text.slice(5, 7)));
  if (!isThere || !(ms >= 0 && ms <= INSTANT_MS_MAX)) return undefined;
  return new Date(ms).toISOString();
};

export const InstantSchema = z
  .string()
  .meta({ format: 'date-time' })
  .transform((text, context): Instant => {
    const instant = toInstant(text);
    if (instant !== undefined) return instant;
    context.addIssue({
      code: 'custom',
      message: 'must be an RFC 3339 time with an offset, such as 2026-11-24T09:00:00Z',
    });
    return z.NEVER;
  });

const IDEMPOTENCY_KEY = /^[\x21-\x7e]{1,255}$/;
/** Lines and tabs are text; no other control character is. */
const NOTE = /^(?:[^\p{Cc}\p{Cs}]|[\t\n\r])*$/u;

const NOTE_CHARACTERS_MAX = 500;
/** Characters as people count them, not UTF-16 units; no text that is too long is taken apart. */
const isShortNote = (text: string): boolean =>
  text.length <= NOTE_CHARACTERS_MAX ||
  (text.length <= 2 * NOTE_CHARACTERS_MAX && Array.from(text).length <= NOTE_CHARACTERS_MAX);

const createSchema = (defaultRegion: string | undefined) =>
  z.strictObject({
    subject: createSubjectSchema(defaultRegion),
    scope: z
      .strictObject({
        email: z.boolean().optional(),
        sms: z.boolean().optional(),
        push: z.boolean().optional(),
      })
      .refine((scope) => Object.values(scope).includes(true), 'must name at least one channel as true')
      .describe(
        'Which channels; absent means all three. Within it a channel left out is false, and false takes nothing away. At least one is true.',
      )
      .optional(),
    effective_at: InstantSchema.describe(
      'Since when, RFC 3339 with an offset; absent: the time of receipt. May lie in the past. Up to an hour ahead it is taken as the time of receipt, and `adjustments` says so; further ahead is refused.',
    ).optional(),
    reason: z.enum(REASONS).default('person_request'),
    note: z
      .string()
      .refine(isShortNote, `must have at most ${NOTE_CHARACTERS_MAX} characters`)
      .regex(NOTE, 'must not have control characters')
      // Classes of Unicode characters are read differently by what reads schemas: said in words.
      .meta({
        description: 'Kept sealed, in no answer. No control characters but tabs and line ends.',
        maxLength: NOTE_CHARACTERS_MAX,
        pattern: undefined,
      })
      .optional(),
    idempotency_key: z
      .string()
      .regex(IDEMPOTENCY_KEY, 'must be 1 to 255 visible ASCII characters')
      .describe('For clients that cannot set the header Idempotency-Key. Both, and different, is refused.')
      .optional(),
  });

/** The header's key; a malformed one, or one that differs from the body's, is a fault beside the body's own. */
function keyInHeader(ctx: Context, body: unknown): { key: string | undefined; faults: readonly Fault[] } {
  const header = ctx.req.headers['idempotency-key'];
  if (header === undefined) return { key: undefined, faults: [] };
  const key = Array.isArray(header) ? header.join(',') : header;
  const inBody =
    typeof body === 'object' && body !== null
      ? (body as { idempotency_key?: unknown }).idempotency_key
      : undefined;
  const detail = !IDEMPOTENCY_KEY.test(key)
    ? 'the Idempotency-Key header must be 1 to 255 visible ASCII characters'
    : typeof inBody === 'string' && inBody !== key
      ? 'differs from the Idempotency-Key header'
      : undefined;
  return { key, faults: detail === undefined ? [] : [{ pointer: '/idempotency_key', detail }] };
}

const perChannel = <T extends z.ZodType>(value: T) => z.object({ email: value, sms: value, push: value });

export const ScopeFlags = perChannel(z.boolean()).meta({
  title: 'ScopeFlags',
  description: 'Always all three.',
});

export const EffectivePerChannel = perChannel(InstantAnswered.nullable()).meta({
  title: 'EffectivePerChannel',
  description: 'Since when each channel is suppressed, null where it is not.',
});

const Warning = z
  .object({
    code: z.literal('channel_needs_other_identifier'),
    channel: z.enum(CHANNELS),
    detail: z.string(),
  })
  .meta({
    title: 'Warning',
    description: 'A channel that this identifier does not reach: opt the other identifier out as well.',
  });

export const PROPAGATION_STATES = ['pending', 'complete', 'uncovered'] as const;

/** What every form of a propagation begins with. */
export const PROPAGATION_COUNTS = {
  state: z
    .enum(PROPAGATION_STATES)
    .describe(
      '`complete`: every required store has confirmed. `uncovered`: no required store covers what was asked, so nothing is promised.',
    ),
  required: z.int().min(0).describe('How many stores must confirm.'),
  confirmed: z.int().min(0).describe('How many have.'),
  verified: z.int().min(0).describe('How many of these were read back and seen to hold it.'),
};
export const Uncovered = z
  .array(z.enum(CHANNELS))
  .describe('Channels that no required store covers for this kind of subject.');

export const PropagationSummary = z
  .object({
    ...PROPAGATION_COUNTS,
    uncovered: Uncovered,
    url: z.string().describe('Where it is read store by store.'),
  })
  .meta({ title: 'PropagationSummary' });

const COMMON = {
  object: z.literal('opt_out'),
  api_version: z.literal('v1'),
  id: Id,
};
const REST = {
  subject: MaskedSubject,
  requested_scope: ScopeFlags.describe('What was asked for.'),
  scope: ScopeFlags.describe(
    'What is suppressed for this subject with this opt-out: the whole, not what changed.',
  ),
  effective: EffectivePerChannel,
  effective_at: InstantAnswered,
  received_at: InstantAnswered,
  recorded_at: InstantAnswered,
  idempotency_key: z.string().describe('Yours, or `auto_` and the id.'),
};

const RecordedOptOut = z
  .object({
    ...COMMON,
    outcome: z
      .enum(['recorded', 'already_opted_out', 'already_recorded'])
      .describe(
        '`already_opted_out`: nothing would change, and this is the opt-out that covers it. `already_recorded`: the same opt-out was recorded before a later grant, and is not in force.',
      ),
    in_force: z.literal(false).describe('Only with `already_recorded`.').optional(),
    ...REST,
    adjustments: z
      .array(
        z
          .object({ code: z.literal('effective_at_in_future'), pointer: z.string(), detail: z.string() })
          .meta({ title: 'Adjustment' }),
      )
      .describe('Only where something was taken otherwise than it was stated.')
      .optional(),
    warnings: z.array(Warning),
    propagation: PropagationSummary,
  })
  .meta({ title: 'RecordedOptOut' });

export const FoundOptOutAnswer = z
  .object({
    ...COMMON,
    outcome: z.literal('recorded'),
    in_force: z.boolean().describe('Whether every scope that was asked for is still suppressed.'),
    ...REST,
    warnings: z.array(Warning),
    propagation: PropagationSummary,
  })
  .meta({ title: 'OptOut' });

const OptOutList = z
  .object({
    object: z.literal('list'),
    opt_outs: z.array(FoundOptOutAnswer).describe('Newest first.'),
    next_cursor: z.string().nullable().describe('For `cursor`, null on the last page.'),
  })
  .meta({ title: 'OptOutList' });

const channels = <T>(value: (channel: Channel) => T): Record<Channel, T> => ({
  email: value('email'),
  sms: value('sms'),
  push: value('push'),
});

export const scopeOf = (state: SubjectState): Record<Channel, boolean> =>
  channels((channel) => state.suppressed[channel] !== undefined);
export const effectiveOf = (state: SubjectState): Record<Channel, Instant | null> =>
  channels((channel) => state.suppressed[channel]?.first_effective_at ?? null);

const propagationMember = (
  id: string,
  { state, required, confirmed, verified, uncovered }: Propagation,
): z.input<typeof PropagationSummary> => ({
  state,
  required,
  confirmed,
  verified,
  uncovered: [...uncovered],
  url: `/v1/opt-outs/${id}/propagation`,
});

const IDENTIFIER: Readonly<Record<Channel, string>> = {
  email: 'an email address',
  sms: 'a phone number',
  push: 'a push token',
};

/** A channel that this identifier does not reach: an address opted out of SMS says nothing of the person's phone. */
const warningsOf = (kind: SubjectKind, asked: readonly string[]): z.input<typeof Warning>[] =>
  CHANNELS.filter(
    (channel) => asked.includes(channel) && kind !== 'person_id' && KIND_OF_CHANNEL[channel] !== kind,
  ).map((channel) => ({
    code: 'channel_needs_other_identifier',
    channel,
    detail: `${channel} reaches people by ${IDENTIFIER[channel]}: opt that out as well.`,
  }));

function renderRecorded(recorded: Recorded): string {
  const { optOut, state, subject } = recorded;
  const answer: z.input<typeof RecordedOptOut> = {
    object: 'opt_out',
    api_version: 'v1',
    id: optOut.id,
    outcome: recorded.outcome,
    ...(recorded.outcome === 'already_recorded' ? { in_force: false } : {}),
    subject: { kind: subject.kind, masked: mask(subject) },
    requested_scope: channels((channel) => recorded.asked.includes(channel)),
    scope: scopeOf(state),
    effective: effectiveOf(state),
    effective_at: optOut.effectiveAt,
    received_at: optOut.receivedAt,
    recorded_at: optOut.recordedAt,
    idempotency_key: recorded.idempotencyKey,
    ...(recorded.effectiveAtAdjusted
      ? {
          adjustments: [
            {
              code: 'effective_at_in_future',
              pointer: '/effective_at',
              detail: 'The date lay ahead and was taken as the time of receipt.',
            },
          ],
        }
      : {}),
    warnings: warningsOf(subject.kind, recorded.asked),
    propagation: propagationMember(optOut.id, recorded.propagation),
  };
  return JSON.stringify(answer);
}

export const renderFound = ({
  optOut,
  subject,
  state,
  inForce,
  propagation,
}: FoundOptOut): z.input<typeof FoundOptOutAnswer> => ({
  object: 'opt_out',
  api_version: 'v1',
  id: optOut.id,
  outcome: 'recorded',
  in_force: inForce,
  subject: { kind: subject.kind, masked: subject.masked ?? null },
  requested_scope: channels((channel) => optOut.requestedScopes.includes(channel)),
  scope: scopeOf(state),
  effective: effectiveOf(state),
  effective_at: optOut.effectiveAt,
  received_at: optOut.receivedAt,
  recorded_at: optOut.recordedAt,
  idempotency_key: optOut.idempotencyKey,
  warnings: warningsOf(subject.kind, optOut.requestedScopes),
  propagation: propagationMember(optOut.id, propagation),
});

/** What a key may see: its own client's opt-outs, or with opt_outs:read_all everybody's. */
export const visibleClient = (ctx: Context): string | undefined => {
  const { key } = authorizedOf(ctx);
  return key.scopes.includes('opt_outs:read_all') ? undefined : key.client;
};

/** One opt-out that the key may see; anything else is not found, and does not tell why. */
export async function findVisible(ctx: Context, ledger: Ledger, id: string): Promise<FoundOptOut> {
  const found = await ledger.findOptOut(id, visibleClient(ctx));
  if (found === undefined) throw new AbideError('not-found');
  return found;
}

/** Where a list goes on. */
export const CURSOR = z.string().max(200).describe('`next_cursor` of the page before.').optional();
export const LINK: Readonly<Record<string, HeaderField>> = {
  Link: {
    description: 'The next page, `rel="next"` (RFC 8288); absent on the last one.',
    schema: z.string(),
  },
};

const ListQuery = z.strictObject({
  limit: queryInteger(100).default(20).describe('How many a page has at most.'),
  cursor: CURSOR,
  since: InstantSchema.describe('Recorded at this time or later, RFC 3339 with an offset.').optional(),
  until: InstantSchema.describe('Recorded before this time, RFC 3339 with an offset.').optional(),
  state: z.enum(PROPAGATION_STATES).describe('Whose propagation is in this state now.').optional(),
  store: z
    .string()
    .max(63)
    .describe('Which this store must hold; with `state`, by what it has confirmed.')
    .optional(),
  reason: z.enum(REASONS).describe('Recorded for this reason.').optional(),
});

export const OPT_OUT_ID = '01a21107-b4e9-77fd-a4a6-3364d00e3f37';
const AT = '2026-11-24T09:00:00.000Z';
const RECORDED_AT = '2026-11-24T09:00:00.412Z';

const EXAMPLE_REST = {
  subject: { kind: 'email', masked: 'a••@e••.com' },
  requested_scope: { email: true, sms: false, push: false },
  scope: { email: true, sms: false, push: false },
  effective: { email: AT, sms: null, push: null },
  effective_at: AT,
  received_at: RECORDED_AT,
  recorded_at: RECORDED_AT,
} satisfies Partial<z.input<typeof FoundOptOutAnswer>>;

const EXAMPLE_PROPAGATION = {
  state: 'pending',
  required: 1,
  confirmed: 0,
  verified: 0,
  uncovered: [],
  url: `/v1/opt-outs/${OPT_OUT_ID}/propagation`,
} satisfies z.input<typeof PropagationSummary>;

const EXAMPLE_RECORDED = {
  object: 'opt_out',
  api_version: 'v1',
  id: OPT_OUT_ID,
  outcome: 'recorded',
  ...EXAMPLE_REST,
  idempotency_key: '7f9c2b1e',
  warnings: [],
  propagation: EXAMPLE_PROPAGATION,
} satisfies z.input<typeof RecordedOptOut>;

export const EXAMPLE_FOUND = {
  object: 'opt_out',
  api_version: 'v1',
  id: OPT_OUT_ID,
  outcome: 'recorded',
  in_force: true,
  ...EXAMPLE_REST,
  idempotency_key: '7f9c2b1e',
  warnings: [],
  propagation: { ...EXAMPLE_PROPAGATION, state: 'complete', confirmed: 1, verified: 1 },
} satisfies z.input<typeof FoundOptOutAnswer>;

const LOCATION: Readonly<Record<string, HeaderField>> = {
  Location: { description: 'Where the opt-out is read back.', schema: z.string() },
  'Idempotency-Replayed': {
    description:
      'This key was answered before: status and body are those of then, byte for byte, save the propagation under `Prefer: wait`.',
    schema: z.literal('true'),
  },
  ...PREFERENCE_APPLIED,
};

export function addOptOuts(routes: Routes, { ledger, defaultRegion, log, closing }: Deps): void {
  const OptOutRequest = createSchema(defaultRegion);

  const record: Operation = {
    method: 'post',
    path: '/v1/opt-outs',
    id: 'createOptOut',
    tag: 'Opt-outs',
    summary: 'Record an opt-out',
    description:
      'Records that a person does not want to be reached. The 2xx is sent once it is durable; no call takes it back. ' +
      'Repeat it with the same key until there is an answer: the same key and the same intent get the first answer again. ' +
      'The same opt-out under another key or none is answered with 200 and records nothing new.',
    scopes: ['opt_outs:write'],
    headers: {
      'Idempotency-Key': {
        description:
          'Your name for this one opt-out: repeats under it are one. Kept for 30 days, per client.',
        schema: z.string().regex(IDEMPOTENCY_KEY),
      },
      ...PREFER,
    },
    body: OptOutRequest.meta({ title: 'OptOutRequest' }),
    answers: {
      201: { description: 'Recorded.', schema: RecordedOptOut, headers: LOCATION },
      200: {
        description: 'It was so already: the opt-out that says so.',
        schema: RecordedOptOut,
        headers: LOCATION,
      },
    },
    problems: ['idempotency-key-in-use', 'idempotency-key-reused', 'overloaded'],
    examples: {
      recorded: {
        summary: 'One channel',
        headers: { 'Idempotency-Key': '7f9c2b1e' },
        body: {
          subject: { email: 'Ada@Example.com' },
          scope: { email: true },
          effective_at: '2026-11-24T10:00:00+01:00',
          reason: 'person_request',
          note: 'asked on the phone',
        },
        status: 201,
        answer: EXAMPLE_RECORDED,
      },
      repeated: {
        summary: 'The same without a key',
        body: { subject: { email: 'ada@example.com' }, scope: { email: true } },
        status: 200,
        answer: { ...EXAMPLE_RECORDED, outcome: 'already_opted_out', idempotency_key: `auto_${OPT_OUT_ID}` },
      },
      everything: {
        summary: 'All channels: one identifier does not reach them all',
        body: { subject: { phone: '+41791234567' } },
        status: 201,
        answer: {
          ...EXAMPLE_RECORDED,
          id: '01a21107-f430-70b1-a43b-3e14ea64dc11',
          subject: { kind: 'phone', masked: '+41••67' },
          requested_scope: { email: true, sms: true, push: true },
          scope: { email: true, sms: true, push: true },
          effective: { email: RECORDED_AT, sms: RECORDED_AT, push: RECORDED_AT },
          effective_at: RECORDED_AT,
          idempotency_key: 'auto_01a21107-f430-70b1-a43b-3e14ea64dc11',
          warnings: warningsOf('phone', CHANNELS),
          propagation: {
            ...EXAMPLE_PROPAGATION,
            url: '/v1/opt-outs/01a21107-f430-70b1-a43b-3e14ea64dc11/propagation',
          },
        },
      },
      typo: {
        summary: 'A misspelt member is refused, since it would narrow or widen the opt-out',
        body: { subject: { email: 'ada@example.com' }, scopes: { sms: true } },
        status: 422,
        answer: exampleProblem('invalid-value', {
          errors: [{ pointer: '/scopes', detail: 'is not known here' }],
        }),
      },
    },
  };

  routes.add(record, async (ctx) => {
    const receivedAtMs = performance.now();
    const wait = preferredWait(ctx);
    const body = await readJson(ctx);
    const header = keyInHeader(ctx, body);
    const request = parse(OptOutRequest, body, header.faults);
    const { caller } = authorizedOf(ctx);
    const { scope } = request;
    const answer = await ledger.record(
      {
        subject: request.subject,
        scopes: scope === undefined ? CHANNELS : CHANNELS.filter((channel) => scope[channel] === true),
        effectiveAt: request.effective_at,
        reason: request.reason,
        note: request.note,
        idempotencyKey: header.key ?? request.idempotency_key,
        apiVersion: 'v1',
        caller,
        traceparent: traceparentOf(ctx),
        receivedAtMs,
      },
      renderRecorded,
    );
    // From here on it is recorded: whatever happens to the waiting, the answer is the recorded one.
    const live =
      wait === undefined
        ? undefined
        : await ledger
            .waitForPropagation(answer.optOutId, wait * 1000, goneSignal(ctx, closing))
            .catch((error: unknown) => {
              log.warn(
                { error, requestId: caller.requestId },
                'recorded, but its propagation cannot be read',
              );
              return undefined;
            });
    ctx.status = answer.status;
    ctx.set('Location', `/v1/opt-outs/${answer.optOutId}`);
    if (answer.replayed) ctx.set('Idempotency-Replayed', 'true');
    ctx.type = 'application/json';
    if (live === undefined) ctx.body = answer.body;
    else {
      waited(ctx, wait);
      ctx.body = withPropagation(answer.body, propagationMember(answer.optOutId, live));
    }
  });

  const list: Operation = {
    method: 'get',
    path: '/v1/opt-outs',
    id: 'listOptOuts',
    tag: 'Opt-outs',
    summary: 'List opt-outs',
    description:
      "Your own client's opt-outs, newest first; with the scope `opt_outs:read_all` everybody's. The next page is in `Link` and in `next_cursor`.",
    scopes: ['opt_outs:read'],
    query: ListQuery,
    answers: { 200: { description: 'A page.', schema: OptOutList, headers: LINK } },
    examples: {
      page: {
        summary: 'What people asked for themselves this month',
        query: { limit: '20', since: '2026-11-01T00:00:00Z', reason: 'person_request' },
        status: 200,
        answer: { object: 'list', opt_outs: [EXAMPLE_FOUND], next_cursor: null },
      },
    },
  };

  routes.add(list, async (ctx) => {
    const query = parse(ListQuery, { ...ctx.query });
    const { optOuts, nextCursor } = await ledger.listOptOuts({
      client: visibleClient(ctx),
      limit: query.limit,
      cursor: query.cursor,
      since: query.since,
      until: query.until,
      state: query.state,
      store: query.store,
      reason: query.reason,
    });
    if (nextCursor !== undefined) {
      const next = new URLSearchParams(ctx.querystring);
      next.set('cursor', nextCursor);
      ctx.set('Link', `</v1/opt-outs?${next.toString()}>; rel="next"`);
    }
    ctx.body = { object: 'list', opt_outs: optOuts.map(renderFound), next_cursor: nextCursor ?? null };
  });

  const read: Operation = {
    method: 'get',
    path: '/v1/opt-outs/:id',
    id: 'getOptOut',
    tag: 'Opt-outs',
    summary: 'Read an opt-out',
    description:
      "As it was recorded, with how far it has propagated now and whether it is still in force. Another client's is not found.",
    scopes: ['opt_outs:read'],
    params: { id: Id },
    answers: { 200: { description: 'The opt-out.', schema: FoundOptOutAnswer } },
    problems: ['not-found'],
    examples: {
      found: { summary: 'In force', path: { id: OPT_OUT_ID }, status: 200, answer: EXAMPLE_FOUND },
      foreign: {
        summary: "Unknown, or another client's",
        path: { id: '00000000-0000-7000-8000-000000000000' },
        status: 404,
        answer: exampleProblem('not-found'),
      },
    },
  };

  routes.add(read, async (ctx) => {
    ctx.body = renderFound(await findVisible(ctx, ledger, ctx.params.id!));
  });
}

/** The propagation is the last member of what was stored: the rest stays byte for byte. */
const withPropagation = (body: string, propagation: object): string =>
  `${body.slice(0, body.lastIndexOf('"propagation":'))}"propagation":${JSON.stringify(propagation)}}`;
