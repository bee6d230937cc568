import { performance } from 'node:perf_hooks';
import { z } from 'zod';
import { REASONS } from '../../ledger/contract/opt-outs.ts';
import type { FoundOptOut, Recorded } from '../../ledger/contract/opt-outs.ts';
import type { Propagation } from '../../ledger/contract/propagation.ts';
import type { Instant, SubjectState } from '../../suppression/decision.ts';
import { CHANNELS, isChannel } from '../../suppression/scope.ts';
import type { Channel } from '../../suppression/scope.ts';
import { mask } from '../../suppression/subject.ts';
import { answerRecorded, RECORDED_HEADERS, unreachedWarnings } from '../answer-recorded.ts';
import { boundedText } from '../bounded-text.ts';
import type { Deps } from '../deps.ts';
import { authorizedOf } from '../guard/authorize.ts';
import { IDEMPOTENCY_HEADER, IDEMPOTENCY_KEY, keyInHeader } from '../guard/idempotency.ts';
import { PREFER, preferredWait } from '../guard/prefer.ts';
import { parse, readJson } from '../guard/read-body.ts';
import { traceparentOf } from '../guard/trace.ts';
import { findVisible, visibleClient } from '../guard/visible.ts';
import { InstantSchema } from '../instant.ts';
import { LINK, linkNext, OptOutListQuery } from '../list.ts';
import { exampleProblem, Id, Instant as InstantAnswered } from '../operation.ts';
import type { Operation, Routes } from '../operation.ts';
import { PROPAGATION_COUNTS } from '../propagation-shape.ts';
import { createSubjectSchema, MaskedSubject } from '../subject.ts';

const NOTE_CHARACTERS_MAX = 500;

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
        'Which channels; absent means all three. A channel left out is false, and false takes nothing away. At least one must be true.',
      )
      .optional(),
    effective_at: InstantSchema.describe(
      'Since when, RFC 3339 with an offset; absent: the time of receipt. May be in the past. A time up to an hour ahead is taken as the time of receipt, and `adjustments` says so; one further ahead is refused.',
    ).optional(),
    reason: z.enum(REASONS).default('person_request'),
    note: boundedText(
      NOTE_CHARACTERS_MAX,
      'Kept sealed, and in no answer. No control characters except tabs and line ends.',
    ).optional(),
    idempotency_key: z
      .string()
      .regex(IDEMPOTENCY_KEY, 'must be 1 to 255 visible ASCII characters')
      .describe(
        'For clients that cannot set the header Idempotency-Key. If both are given and differ, the request is refused.',
      )
      .optional(),
  });

const perChannel = <T extends z.ZodType>(value: T) => z.object({ email: value, sms: value, push: value });

export const ScopeFlags = perChannel(z.boolean()).meta({
  title: 'ScopeFlags',
  description: 'Always all three.',
});

export const EffectivePerChannel = perChannel(InstantAnswered.nullable()).meta({
  title: 'EffectivePerChannel',
  description: 'Since when each channel is suppressed; null if it is not.',
});

const Warning = z
  .object({
    code: z.literal('channel_needs_other_identifier'),
    channel: z.enum(CHANNELS),
    detail: z.string(),
  })
  .meta({
    title: 'Warning',
    description: 'This identifier does not reach the channel: opt out the other identifier as well.',
  });

export const Uncovered = z
  .array(z.enum(CHANNELS))
  .describe('Channels that no required store covers for this kind of subject.');

const NotWhole = z.object({ code: z.literal('not_whole_in_v1'), detail: z.string() }).meta({
  title: 'NotWholeInV1',
  description: 'A later version recorded more than this one can express.',
});

export const PropagationSummary = z
  .object({
    ...PROPAGATION_COUNTS,
    uncovered: Uncovered,
    url: z.string().describe('Where to read it store by store.'),
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
    'Everything that is suppressed for this subject with this opt-out, not what changed.',
  ),
  effective: EffectivePerChannel,
  effective_at: InstantAnswered,
  received_at: InstantAnswered,
  recorded_at: InstantAnswered,
  idempotency_key: z.string().describe('Your key, or `auto_` and the id.'),
};

const RecordedOptOut = z
  .object({
    ...COMMON,
    outcome: z
      .enum(['recorded', 'already_opted_out', 'already_recorded'])
      .describe(
        '`already_opted_out`: nothing would change; this is the opt-out that covers the request. `already_recorded`: the same opt-out was recorded before a later grant, and is not in force.',
      ),
    in_force: z.literal(false).describe('Present only with `already_recorded`.').optional(),
    ...REST,
    adjustments: z
      .array(
        z
          .object({ code: z.literal('effective_at_in_future'), pointer: z.string(), detail: z.string() })
          .meta({ title: 'Adjustment' }),
      )
      .describe('Present only if something was taken differently from how it was stated.')
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
    warnings: z.array(z.union([Warning, NotWhole])),
    propagation: PropagationSummary,
  })
  .meta({ title: 'OptOut' });

const OptOutList = z
  .object({
    object: z.literal('list'),
    opt_outs: z.array(FoundOptOutAnswer).describe('Newest first.'),
    next_cursor: z.string().nullable().describe('For `cursor`; null on the last page.'),
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
  uncovered: uncovered.filter(isChannel),
  url: `/v1/opt-outs/${id}/propagation`,
});

function renderRecorded(recorded: Recorded): string {
  const { optOut } = recorded;
  // A request of this version for one subject may get an opt-out that another version recorded for several.
  const { subject, state } = recorded.subjects[0]!;
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
    warnings: unreachedWarnings([subject.kind], recorded.asked),
    propagation: propagationMember(optOut.id, recorded.propagation),
  };
  return JSON.stringify(answer);
}

/** If v1 has no words for all of it, it never pretends to have said all: there is a warning. */
const notWholeInV1 = ({ optOut, subjects }: FoundOptOut): z.input<typeof NotWhole>[] =>
  subjects.length === 1 && optOut.requestedScopes.every(isChannel)
    ? []
    : [
        {
          code: 'not_whole_in_v1',
          detail: `It has identifiers or scopes that v1 cannot show: GET /v2/opt-outs/${optOut.id} shows them all.`,
        },
      ];

export function renderFound(found: FoundOptOut): z.input<typeof FoundOptOutAnswer> {
  const { optOut, inForce, propagation } = found;
  const { kind, masked, state } = found.subjects[0]!;
  return {
    object: 'opt_out',
    api_version: 'v1',
    id: optOut.id,
    outcome: 'recorded',
    in_force: inForce,
    subject: { kind, masked: masked ?? null },
    requested_scope: channels((channel) => optOut.requestedScopes.includes(channel)),
    scope: scopeOf(state),
    effective: effectiveOf(state),
    effective_at: optOut.effectiveAt,
    received_at: optOut.receivedAt,
    recorded_at: optOut.recordedAt,
    idempotency_key: optOut.idempotencyKey,
    warnings: [
      ...unreachedWarnings(
        found.subjects.map((subject) => subject.kind),
        optOut.requestedScopes,
      ),
      ...notWholeInV1(found),
    ],
    propagation: propagationMember(optOut.id, propagation),
  };
}

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

export function addOptOuts(routes: Routes, deps: Deps): void {
  const { ledger, defaultRegion } = deps;
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
      'The same opt-out under another key or none gets a 200 and records nothing new, unless the address was erased since.',
    scopes: ['opt_outs:write'],
    headers: {
      ...IDEMPOTENCY_HEADER,
      ...PREFER,
    },
    body: OptOutRequest.meta({ title: 'OptOutRequest' }),
    answers: {
      201: { description: 'Recorded.', schema: RecordedOptOut, headers: RECORDED_HEADERS },
      200: {
        description: 'The person had already opted out: the opt-out that says so.',
        schema: RecordedOptOut,
        headers: RECORDED_HEADERS,
      },
    },
    problems: ['idempotency-key-in-use', 'idempotency-key-reused', 'budget-exhausted'],
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
        summary: 'All channels, which one identifier does not reach',
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
          warnings: unreachedWarnings(['phone'], CHANNELS),
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
        subjects: [request.subject],
        scopes: scope === undefined ? CHANNELS : CHANNELS.filter((channel) => scope[channel] === true),
        effectiveAt: request.effective_at,
        reason: request.reason,
        note: request.note,
        regimes: [],
        evidence: undefined,
        idempotencyKey: header.key ?? request.idempotency_key,
        apiVersion: 'v1',
        caller,
        traceparent: traceparentOf(ctx),
        receivedAtMs,
      },
      renderRecorded,
    );
    await answerRecorded(ctx, deps, {
      ...answer,
      id: answer.optOutId,
      location: `/v1/opt-outs/${answer.optOutId}`,
      wait,
      toMember: (propagation) => propagationMember(answer.optOutId, propagation),
    });
  });

  const list: Operation = {
    method: 'get',
    path: '/v1/opt-outs',
    id: 'listOptOuts',
    tag: 'Opt-outs',
    summary: 'List opt-outs',
    description:
      "Your own client's opt-outs, newest first; with the scope `opt_outs:read_all`, those of every client. The next page is in `Link` and in `next_cursor`.",
    scopes: ['opt_outs:read'],
    query: OptOutListQuery,
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
    const query = parse(OptOutListQuery, { ...ctx.query });
    const found = await ledger.listOptOuts({ ...query, client: visibleClient(ctx) });
    // v1 has always taken the name of no store for that of one that must hold nothing.
    const { optOuts, nextCursor } = found ?? { optOuts: [], nextCursor: undefined };
    linkNext(ctx, nextCursor);
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
