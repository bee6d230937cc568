// For those who keep the process running: alive, ready, measured. A late store is not an unready API.
import type Router from '@koa/router';
import type { Ledger } from '../../ledger/contract/ledger.ts';
import { AbideError } from '../../suppression/errors.ts';
import type { Metrics } from './metrics.ts';

export function addHealth(
  router: Router,
  { ledger, metrics, isReady }: { ledger: Ledger; metrics: Metrics; isReady: () => boolean },
): void {
  router.get('/livez', (ctx) => {
    ctx.body = { status: 'alive' };
  });
  router.get('/readyz', async (ctx) => {
    if (!isReady()) throw new AbideError('ledger-unavailable', 'Starting.', { retryAfterSeconds: 1 });
    await ledger.ready();
    ctx.body = { status: 'ready' };
  });
  router.get('/metrics', async (ctx) => {
    ctx.type = 'text/plain; version=0.0.4; charset=utf-8';
    ctx.body = await metrics.render(() => ledger.lag());
  });
}
