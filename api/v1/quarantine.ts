// What a store keeps failing, for operators: seen, and tried again at once. There is no call that takes anything out.
import type Router from '@koa/router';
import { z } from 'zod';
import { PARKED_KINDS } from '../../ledger/ledger.ts';
import type { Parked, ParkedInFull } from '../../ledger/ledger.ts';
import { AbideError } from '../../suppression/errors.ts';
import { authorizedOf } from '../guard/authorize.ts';
import { parse, queryInteger, readJson } from '../guard/read-body.ts';
import type { Deps } from './deps.ts';

const Code = z.string().regex(/^[A-Z][A-Z0-9_]{0,63}$/, 'must match ^[A-Z][A-Z0-9_]{0,63}$');

const ListQuery = z.strictObject({
  limit: queryInteger(500).default(100),
  cursor: z.string().max(200).optional(),
  kind: z.enum(PARKED_KINDS).optional(),
  code: Code.optional(),
});

const Retry = z
  .strictObject({ seq: z.int().min(1).optional(), code: Code.optional(), all: z.literal(true).optional() })
  .transform((given, context) => {
    const { seq, code, all } = given;
    if (Object.values(given).filter((one) => one !== undefined).length === 1) {
      if (seq !== undefined) return { seq };
      if (code !== undefined) return { code };
      if (all !== undefined) return { all };
    }
    context.addIssue({ code: 'custom', message: 'must have exactly one of seq, code, all' });
    return z.NEVER;
  });

const SEQ = /^[1-9]\d{0,14}$/;

const render = (parked: Parked) => ({
  store: parked.store,
  seq: parked.seq,
  opt_out_id: parked.optOutId ?? null,
  subject_id: parked.subjectId,
  subject_kind: parked.subjectKind,
  version: parked.version,
  kind: parked.kind,
  code: parked.code ?? null,
  attempts: parked.attempts,
  recorded_at: parked.recordedAt,
  age_seconds: parked.ageSeconds,
  since: parked.since,
  next_try_at: parked.nextTryAt,
});

const renderInFull = (parked: ParkedInFull) => {
  const last = parked.lastEvidence;
  return {
    ...render(parked),
    generation: parked.generation,
    speaks_from: parked.speaksFrom,
    newest_version: parked.newestVersion,
    last_evidence:
      last === undefined
        ? null
        : {
            seq: last.seq,
            version: last.version,
            outcome: last.outcome,
            held: { version: last.held.version ?? null, suppressed: last.held.suppressed },
            acknowledged_at: last.acknowledgedAt,
            worker: last.worker,
          },
  };
};

const noStore = (): AbideError => new AbideError('not-found', 'No store of this name is in service.');

export function addQuarantine(router: Router, { ledger, authorize }: Deps): void {
  router.get('/v1/stores/:name/quarantine', authorize('lag:read'), async (ctx) => {
    const query = parse(ListQuery, { ...ctx.query });
    const page = await ledger.listParked(ctx.params.name!, {
      limit: query.limit,
      cursor: query.cursor,
      kind: query.kind,
      code: query.code,
    });
    if (page === undefined) throw noStore();
    if (page.nextCursor !== undefined) {
      const next = new URLSearchParams(ctx.querystring);
      next.set('cursor', page.nextCursor);
      ctx.set('Link', `<${ctx.path}?${next.toString()}>; rel="next"`);
    }
    ctx.body = {
      object: 'list',
      quarantine: page.parked.map(render),
      next_cursor: page.nextCursor ?? null,
    };
  });

  router.get('/v1/stores/:name/quarantine/:seq', authorize('lag:read'), async (ctx) => {
    const seq = ctx.params.seq!;
    const parked = SEQ.test(seq) ? await ledger.findParked(ctx.params.name!, Number(seq)) : undefined;
    if (parked === undefined) throw new AbideError('not-found', 'Nothing is parked there under this number.');
    ctx.body = renderInFull(parked);
  });

  router.post('/v1/stores/:name/quarantine/retry', authorize('stores:write'), async (ctx) => {
    const which = parse(Retry, await readJson(ctx));
    const retried = await ledger.retryParked(ctx.params.name!, which, authorizedOf(ctx).caller);
    if (retried === undefined) throw noStore();
    ctx.body = { retried };
  });
}
