// What a decision says of a scope, and the outcomes of a batch, in the form that connectors of SQL stores share.
import { isChannel } from '../../suppression/scope.ts';
import type { ApplyOutcome, Item, SubjectKey } from './connector.ts';

export const nameOf = ({ kind, key }: SubjectKey): string => `${kind}:${key}`;

/** What a scope becomes: true, false if the store is told of the grant, null if the decision says nothing. */
export const told = (item: Item, scope: string, heldVersion = -1): boolean | null => {
  if (scope in item.suppressed) return true;
  const grant = item.granted[scope];
  return grant !== undefined && heldVersion < grant.version ? false : null;
};

export const otherScopes = (item: Item, heldVersion?: number): Record<string, boolean> => {
  const scopes: Record<string, boolean> = {};
  for (const scope of [...Object.keys(item.granted), ...Object.keys(item.suppressed)]) {
    const state = isChannel(scope) ? null : told(item, scope, heldVersion);
    if (state !== null) scopes[scope] = state;
  }
  return scopes;
};

/** Applies what can be stored and puts the outcomes back in order. */
export async function eachOutcome(
  batch: readonly Item[],
  refusalOf: (item: Item) => ApplyOutcome | undefined,
  apply: (items: readonly Item[]) => Promise<(item: Item) => ApplyOutcome>,
): Promise<readonly ApplyOutcome[]> {
  const refused = new Map<Item, ApplyOutcome>();
  for (const item of batch) {
    const refusal = refusalOf(item);
    if (refusal !== undefined) refused.set(item, refusal);
  }
  const storable = refused.size === 0 ? batch : batch.filter((item) => !refused.has(item));
  if (storable.length === 0) return batch.map((item) => refused.get(item)!);
  const outcomeOf = await apply(storable);
  return batch.map((item) => refused.get(item) ?? outcomeOf(item));
}

/**
 * Applies together. If the server refuses the values, in halves, each by itself, until it is known whose it refuses: one bad item
 * never fails its neighbours. Throws if it refuses all of several: then the table is at fault. Gives the refusals.
 */
export async function applyInHalves(
  items: readonly Item[],
  apply: (items: readonly Item[]) => Promise<void>,
  refusalCodeOf: (error: unknown) => string | undefined,
): Promise<ReadonlyMap<Item, ApplyOutcome>> {
  const refused = new Map<Item, ApplyOutcome>();
  let first: unknown;
  async function applySome(some: readonly Item[]): Promise<void> {
    try {
      await apply(some);
    } catch (error) {
      const code = refusalCodeOf(error);
      if (code === undefined) throw error;
      first ??= error;
      if (some.length === 1) return void refused.set(some[0]!, { kind: 'refused', code });
      const half = some.length >> 1;
      await applySome(some.slice(0, half));
      await applySome(some.slice(half));
    }
  }
  await applySome(items);
  if (items.length > 1 && refused.size === items.length) throw first;
  return refused;
}
