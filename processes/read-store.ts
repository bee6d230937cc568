import { makeKey } from '../connectors/contract/key-form.ts';
import type { Held } from '../connectors/contract/connector.ts';
import { AbideError } from '../suppression/errors.ts';
import { normalise } from '../suppression/subject.ts';
import type { SubjectKind } from '../suppression/subject-kind.ts';
import { askStore } from './ask-store.ts';
import { readConfiguration } from './running-database.ts';

/**
 * Asks a store itself what it holds of a subject; undefined: nobody is there. Nothing of ours is asked. Throws
 * AbideError('invalid-value') for an unknown store or an invalid subject.
 */
export async function readFromStore(
  env: Readonly<Record<string, string | undefined>>,
  name: string,
  kind: SubjectKind,
  value: string,
): Promise<Held | undefined> {
  const configuration = await readConfiguration(env);
  const store = configuration.stores.find((one) => one.name === name);
  if (store === undefined) {
    const names = configuration.stores.map((one) => one.name).join(', ');
    throw new AbideError('invalid-value', `The configuration has no store ${name}, only ${names}.`);
  }
  const subject = normalise(kind, value, configuration.defaultRegion);
  if (!subject.ok) throw new AbideError('invalid-value', `The subject ${subject.detail} (kind ${kind}).`);
  const key = makeKey(store.key, subject.value.reveal());
  const [held] = await askStore(store, (open, call) =>
    call((signal) => open.readBack([{ kind, key }], signal)),
  );
  return held;
}
