// What workers say and ask, each for the one store that its key is bound to.
import type Router from '@koa/router';
import { z } from 'zod';
import type { Outstanding } from '../../ledger/ledger.ts';
import { CARRIED_BY, OUTCOMES } from '../../suppression/acknowledgement.ts';
import type { Decision } from '../../suppression/decision.ts';
import { AbideError } from '../../suppression/errors.ts';
import { isScope } from '../../suppression/scope.ts';
import { requireSomeStore, requireStore } from '../guard/authorize.ts';
import { goneSignal, preferredWait, waited } from '../guard/prefer.ts';
import { parse, queryInteger, readJson } from '../guard/read-body.ts';
import type { Deps } from './deps.ts';
import { InstantSchema } from './opt-outs.ts';

const BYTES_MAX = 2 * 1024 * 1024;

const TRANSPORT_KEY_ID = /^[1-9]\d{0,9}$/;

const Seq = z.int().min(1);
const Name = z.string().regex(/^[\x21-\x7e]{1,128}$/, 'must be 1 to 128 visible ASCII characters');
const Code = z.string().regex(/^[A-Z][A-Z0-9_]{0,63}$/, 'must match ^[A-Z][A-Z0-9_]{0,63}$');
const ScopeName = z.string().refine(isScope, 'is not a scope');

const Report = z.strictObject({
  store: z.string().max(63),
  generation: z.int().min(1),
  worker: z.strictObject({
    id: Name,
    incarnation: Name,
    last_error: z.strictObject({ code: Code, at: InstantSchema }).optional(),
    source: z.strictObject({
      kind: z.string().regex(/^[a-z][a-z0-9_]{0,31}$/, 'must be a short lower-case name'),
      status: z.enum(['ok', 'catching_up', 'polling', 'down', 'unknown']),
      position: Name.optional(),
      position_age_seconds: z.number().min(0).optional(),
      parked: z.int().min(0),
    }),
  }),
  observed: z
    .strictObject({
      incarnation: z.string().min(1).max(200).nullable().optional(),
      canary: z.enum(['held', 'lost']).optional(),
    })
    .optional(),
  acknowledgements: z
    .array(
      z
        .strictObject({
          seq: Seq,
          version: Seq,
          outcome: z.enum(OUTCOMES),
          held: z.strictObject({
            version: z.int().min(0).nullable(),
            suppressed: z.array(ScopeName).max(1_000),
          }),
          carried_by: z.enum(CARRIED_BY),
          attempts: z.int().min(1).max(1_000_000),
          code: Code.optional(),
          evidence: z
            .strictObject({
              consumed_at: InstantSchema.optional(),
              applied_at: InstantSchema.optional(),
              verified_at: InstantSchema.optional(),
            })
            .default({}),
        })
        .refine((one) => (one.outcome !== 'refused' && one.outcome !== 'failed') || one.code !== undefined, {
          message: 'is missing: refused and failed say why',
          path: ['code'],
        }),
    )
    .max(1_000, 'must have at most 1,000 acknowledgements'),
});

const OutstandingQuery = z.strictObject({
  after: z
    .string()
    .regex(/^(?:live:\d{1,15}|backfill:[0-9a-f-]{36})$/, 'is not a `next` that a page answered')
    .optional(),
  limit: queryInteger(2_000).default(500),
  worker: Name.optional(),
});

/** A decision as workers read it. */
export const renderDecision = (decision: Decision) => ({
  seq: decision.seq,
  opt_out_id: decision.optOutId ?? null,
  version: decision.version,
  subject_id: decision.subjectId,
  kind: decision.kind,
  suppressed: decision.suppressed,
  granted: decision.granted,
  effective_at: decision.effectiveAt,
  recorded_at: decision.recordedAt,
  sealed: decision.sealed ?? null,
  transport_key_id: decision.transportKeyId ?? null,
});
const render = (decision: Outstanding) => ({
  ...renderDecision(decision),
  attempts: decision.attempts,
  lane: decision.lane,
});

export function addAcknowledgements(router: Router, { ledger, authorize, closing }: Deps): void {
  router.post('/v1/acknowledgements', authorize('acknowledgements:write'), async (ctx) => {
    const report = parse(Report, await readJson(ctx, BYTES_MAX));
    requireStore(ctx, report.store);
    const { worker } = report;
    ctx.body = await ledger.acknowledge(report.store, {
      generation: report.generation,
      worker: {
        id: worker.id,
        incarnation: worker.incarnation,
        lastError: worker.last_error,
        source: {
          kind: worker.source.kind,
          status: worker.source.status,
          position: worker.source.position,
          positionAgeSeconds: worker.source.position_age_seconds,
          parked: worker.source.parked,
        },
      },
      observed: report.observed && {
        incarnation: report.observed.incarnation,
        canary: report.observed.canary,
      },
      acknowledgements: report.acknowledgements.map((one) => ({
        seq: one.seq,
        version: one.version,
        outcome: one.outcome,
        held: { version: one.held.version ?? undefined, suppressed: one.held.suppressed },
        carriedBy: one.carried_by,
        attempts: one.attempts,
        code: one.code,
        evidence: {
          consumedAt: one.evidence.consumed_at,
          appliedAt: one.evidence.applied_at,
          verifiedAt: one.evidence.verified_at,
        },
      })),
    });
  });

  router.get('/v1/stores/:name/outstanding', authorize('acknowledgements:write'), async (ctx) => {
    const query = parse(OutstandingQuery, { ...ctx.query });
    const name = ctx.params.name!;
    requireStore(ctx, name);
    const wait = preferredWait(ctx);
    const page = await ledger.outstanding(name, {
      after: query.after,
      limit: query.limit,
      waitMs: (wait ?? 0) * 1000,
      worker: query.worker,
      signal: goneSignal(ctx, closing),
    });
    if (page === undefined) throw new AbideError('not-found', 'The store is not registered.');
    waited(ctx, wait);
    ctx.body = {
      generation: page.generation,
      decisions: page.decisions.map(render),
      next: page.next ?? null,
      ...(page.paused === undefined ? {} : { paused: page.paused }),
    };
  });

  router.get('/v1/stores/:name/canary', authorize('acknowledgements:write'), async (ctx) => {
    requireStore(ctx, ctx.params.name!);
    const canary = await ledger.canary(ctx.params.name!);
    ctx.body = { canary: canary === undefined ? null : renderDecision(canary) };
  });

  router.get('/v1/stores/:name/subjects/:subject_id', authorize('acknowledgements:write'), async (ctx) => {
    requireStore(ctx, ctx.params.name!);
    const newest = await ledger.newest(ctx.params.subject_id!);
    if (newest === undefined) throw new AbideError('not-found');
    const { subjectId, seq, version, suppressed, granted } = newest;
    ctx.body = { subject_id: subjectId, seq, version, suppressed, granted };
  });

  router.get('/v1/transport-keys/:id', authorize('acknowledgements:write'), async (ctx) => {
    requireSomeStore(ctx);
    const text = ctx.params.id!;
    const id = Number(text);
    const key = TRANSPORT_KEY_ID.test(text) ? await ledger.transportKey(id) : undefined;
    if (key === undefined)
      throw new AbideError('not-found', 'There is no such transport key, or it is destroyed.');
    ctx.set('Cache-Control', 'no-store');
    ctx.body = { id, key: key.toString('base64url') };
  });
}
