import { performance } from 'node:perf_hooks';
import type Router from '@koa/router';
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
import { goneSignal, preferredWait, waited } from '../guard/prefer.ts';
import { parse, queryInteger, readJson } from '../guard/read-body.ts';
import { traceparentOf } from '../guard/trace.ts';
import type { Deps } from './deps.ts';
import { createSubjectSchema } from './subject.ts';

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

export const InstantSchema = z.string().transform((text, context): Instant => {
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
      .optional(),
    effective_at: InstantSchema.optional(),
    reason: z.enum(REASONS).default('person_request'),
    note: z
      .string()
      .refine(isShortNote, `must have at most ${NOTE_CHARACTERS_MAX} characters`)
      .regex(NOTE, 'must not have control characters')
      .optional(),
    idempotency_key: z
      .string()
      .regex(IDEMPOTENCY_KEY, 'must be 1 to 255 visible ASCII characters')
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

const channels = <T>(value: (channel: Channel) => T): Record<Channel, T> => ({
  email: value('email'),
  sms: value('sms'),
  push: value('push'),
});

export const scopeOf = (state: SubjectState): Record<Channel, boolean> =>
  channels((channel) => state.suppressed[channel] !== undefined);
export const effectiveOf = (state: SubjectState): Record<Channel, Instant | null> =>
  channels((channel) => state.suppressed[channel]?.first_effective_at ?? null);

const propagationMember = (id: string, { state, required, confirmed, verified, uncovered }: Propagation) => ({
  state,
  required,
  confirmed,
  verified,
  uncovered,
  url: `/v1/opt-outs/${id}/propagation`,
});

const IDENTIFIER: Readonly<Record<Channel, string>> = {
  email: 'an email address',
  sms: 'a phone number',
  push: 'a push token',
};

/** A channel that this identifier does not reach: an address opted out of SMS says nothing of the person's phone. */
const warningsOf = (kind: SubjectKind, asked: readonly string[]) =>
  CHANNELS.filter(
    (channel) => asked.includes(channel) && kind !== 'person_id' && KIND_OF_CHANNEL[channel] !== kind,
  ).map((channel) => ({
    code: 'channel_needs_other_identifier',
    channel,
    detail: `${channel} reaches people by ${IDENTIFIER[channel]}: opt that out as well.`,
  }));

function renderRecorded(recorded: Recorded): string {
  const { optOut, state, subject } = recorded;
  return JSON.stringify({
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
  });
}

export const renderFound = ({ optOut, subject, state, inForce, propagation }: FoundOptOut) => ({
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
  const found = await ledger.findOptOut(id);
  const client = visibleClient(ctx);
  if (found === undefined || (client !== undefined && found.optOut.client !== client))
    throw new AbideError('not-found');
  return found;
}

const ListQuery = z.strictObject({
  limit: queryInteger(100).default(20),
  cursor: z.string().max(200).optional(),
  since: InstantSchema.optional(),
  until: InstantSchema.optional(),
  state: z.enum(['pending', 'complete', 'uncovered']).optional(),
  store: z.string().max(63).optional(),
  reason: z.enum(REASONS).optional(),
});

export function addOptOuts(router: Router, { ledger, authorize, defaultRegion, log, closing }: Deps): void {
  const OptOutRequest = createSchema(defaultRegion);

  router.post('/v1/opt-outs', authorize('opt_outs:write'), async (ctx) => {
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

  router.get('/v1/opt-outs', authorize('opt_outs:read'), async (ctx) => {
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

  router.get('/v1/opt-outs/:id', authorize('opt_outs:read'), async (ctx) => {
    ctx.body = renderFound(await findVisible(ctx, ledger, ctx.params.id!));
  });
}

/** The propagation is the last member of what was stored: the rest stays byte for byte. */
const withPropagation = (body: string, propagation: object): string =>
  `${body.slice(0, body.lastIndexOf('"propagation":'))}"propagation":${JSON.stringify(propagation)}}`;
