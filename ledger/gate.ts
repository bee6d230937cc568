// May a sender rely on a store's own copy now? A sender that is told to hold sends later; one that is wrongly told to send breaks
// the promise. So only "send" must be earned, and everything else means "hold".
import type { Gate } from './contract/gate.ts';
import type { LagReport } from './contract/propagation-lag.ts';

/**
 * Pure. `maxAgeSeconds` may only ask for more than the store's own `late_after_seconds`, since a late store is never sent from. A
 * store that the lag does not list (registered since, or no longer) is not known to hold anything.
 */
export function judgeGate(
  { as_of: asOf, stores }: Pick<LagReport, 'as_of' | 'stores'>,
  name: string,
  maxAgeSeconds: number | undefined,
): Gate {
  const lag = stores.find(({ store }) => store === name);
  const oldest = lag?.oldest_outstanding_seconds ?? undefined;
  return {
    store: name,
    reason: whyHold(lag?.status ?? 'unknown', oldest, maxAgeSeconds),
    verifiedThrough: lag?.verified_through ?? undefined,
    oldestOutstandingSeconds: oldest,
    absent: lag?.absent ?? undefined,
    asOf,
  };
}

function whyHold(
  status: LagReport['status'],
  oldest: number | undefined,
  maxAgeSeconds: number | undefined,
): Gate['reason'] {
  if (status !== 'ok') return status;
  if (oldest === undefined) return 'unknown';
  return maxAgeSeconds !== undefined && oldest > maxAgeSeconds ? 'outstanding' : undefined;
}
