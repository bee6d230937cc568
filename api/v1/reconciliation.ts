// Whether stores still hold what they acknowledged: asked for and watched by operations, carried out by the stores' workers.
import type Router from '@koa/router';
import { z } from 'zod';
import type { Reconciliation } from '../../ledger/ledger.ts';
import { DIFFERENCES } from '../../suppression/acknowledgement.ts';
import { AbideError } from '../../suppression/errors.ts';
import { authorizedOf, requireStore } from '../guard/authorize.ts';
import { parse, queryInteger, readJson } from '../guard/read-body.ts';
import { renderDecision } from './acknowledgements.ts';
import type { Deps } from './deps.ts';

const BYTES_MAX = 256 * 1024;

const Query = z.strictObject({ limit: queryInteger(100).default(10) });
const PageQuery = z.strictObject({ worker: z.string().regex(/^[\x21-\x7e]{1,128}$/) });

const Seq = z.int().min(1);
const Compared = z.strictObject({
  run: Seq,
  generation: Seq,
  after: z.uuid(),
  through: z.uuid(),
  last: z.boolean(),
  compared: z.int().min(0).max(10_000),
  own: z.int().min(0).max(10_000),
  unread: z.int().min(0).max(10_000),
  differences: z
    .array(z.strictObject({ seq: Seq, kind: z.enum(DIFFERENCES), held_version: z.int().min(0).nullable() }))
    .max(1_000),
});

const render = (pass: Reconciliation) => ({
  id: pass.id,
  asked: pass.asked,
  through: pass.through,
  started_at: pass.startedAt,
  finished_at: pass.finishedAt ?? null,
  compared: pass.compared,
  missing: pass.missing,
  older: pass.older,
  resurrected: pass.resurrected,
  ahead: pass.ahead,
  own: pass.own,
  unread: pass.unread,
});

export function addReconciliation(router: Router, { ledger, authorize }: Deps): void {
  router.get('/v1/stores/:name/reconciliation', authorize('lag:read'), async (ctx) => {
    const { limit } = parse(Query, { ...ctx.query });
    const passes = await ledger.reconciliations(ctx.params.name!, limit);
    if (passes === undefined) throw new AbideError('not-found', 'The store is not registered.');
    ctx.body = { store: ctx.params.name, passes: passes.map(render) };
  });

  router.post('/v1/stores/:name/reconciliation', authorize('stores:write'), async (ctx) => {
    const id = await ledger.reconcile(ctx.params.name!, authorizedOf(ctx).caller);
    if (id === undefined)
      throw new AbideError('not-found', 'No store of this name is in service and can be read back.');
    ctx.status = 202;
    ctx.body = { store: ctx.params.name, id };
  });

  router.get('/v1/stores/:name/reconciliation/page', authorize('acknowledgements:write'), async (ctx) => {
    requireStore(ctx, ctx.params.name!);
    const { worker } = parse(PageQuery, { ...ctx.query });
    const page = await ledger.reconciliationPage(ctx.params.name!, worker);
    ctx.body = {
      page:
        page === undefined
          ? null
          : {
              run: page.run,
              generation: page.generation,
              after: page.after,
              through: page.through,
              last: page.isLast,
              decisions: page.decisions.map(renderDecision),
              pause_ms: page.pauseMs,
            },
    };
  });

  router.post('/v1/stores/:name/reconciliation/page', authorize('acknowledgements:write'), async (ctx) => {
    requireStore(ctx, ctx.params.name!);
    const { run, generation, after, through, last, compared, own, unread, differences } = parse(
      Compared,
      await readJson(ctx, BYTES_MAX),
    );
    const taken = await ledger.compared(
      ctx.params.name!,
      { run, generation, after, through, isLast: last },
      {
        compared,
        own,
        unread,
        differences: differences.map((one) => ({
          seq: one.seq,
          kind: one.kind,
          heldVersion: one.held_version ?? undefined,
        })),
      },
    );
    ctx.body = { taken };
  });
}
