import type { Context } from 'koa';
import type { Grant } from '../../ledger/contract/grants.ts';
import type { Ledger } from '../../ledger/contract/ledger.ts';
import type { FoundOptOut } from '../../ledger/contract/opt-outs.ts';
import { AbideError } from '../../suppression/errors.ts';
import { authorizedOf } from './authorize.ts';

/** What a key may see: its own client's opt-outs, or everybody's with opt_outs:read_all. */
export const visibleClient = (ctx: Context): string | undefined => {
  const { key } = authorizedOf(ctx);
  return key.scopes.includes('opt_outs:read_all') ? undefined : key.client;
};

/** How a client names its requests is between the client and us: somebody may have put an address there. */
export const withItsName = <T extends Pick<Grant, 'id' | 'client' | 'idempotencyKey'>>(
  one: T,
  reader: string,
): T => (one.client === reader ? one : { ...one, idempotencyKey: `auto_${one.id}` });

/** What the key is shown of an opt-out, whoever recorded it. Evidence is for the client that gave it, and opt_outs:read_all. */
export function shownTo(ctx: Context, found: FoundOptOut): FoundOptOut {
  const { client } = authorizedOf(ctx).key;
  return {
    ...found,
    optOut: withItsName(found.optOut, client),
    evidence: [undefined, found.optOut.client].includes(visibleClient(ctx)) ? found.evidence : undefined,
  };
}

/** One opt-out that the key may see; any other is not found, and the answer does not tell why. */
export async function findVisible(ctx: Context, ledger: Ledger, id: string): Promise<FoundOptOut> {
  const found = await ledger.findOptOut(id, visibleClient(ctx));
  if (found === undefined) throw new AbideError('not-found');
  return found;
}
