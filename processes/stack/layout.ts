// Where the stack keeps what is its own, and where it listens. In the data folder:
//
//   stack/ports.json   the ports, chosen at the first start and kept
//   stack/abide.yaml   the configuration that API and workers run with (0600), made anew at each start
//   stack/keys/        a key per worker (0600)
//   stack/kafka/, stack/registry/   data of broker and registry; `abide stack reset` removes them, the ledger stays
//   stack/logs/, stack/running/     a log and, while it runs, the process id of each program
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { Document, parseDocument } from 'yaml';
import { hideNames, showNames } from '../../config/positioned-yaml.ts';
import { AbideError } from '../../suppression/errors.ts';
import { listenOn, tryPort } from '../free-port.ts';

export type Ports = {
  readonly broker: number;
  readonly controller: number;
  readonly connect: number;
  readonly registry: number;
};

/** The defaults of abide.yaml, so that other tools find the stack where they expect it. */
const PREFERRED: Ports = { broker: 9092, controller: 9093, connect: 8083, registry: 8081 };

export const stackFolderOf = (dataFolder: string): string => join(resolve(dataFolder), 'stack');

/**
 * Held by the stack that has the preferred ports, or is about to take them: two stacks that start at the same time would both find
 * 9092 free, and one would talk to the other's broker.
 */
const CLAIM = 9091;

export type ChosenPorts = { readonly ports: Ports; readonly release: () => void };

/** The ports of the last start if they are still free, else the preferred ones, else any. */
export async function choosePorts(folder: string): Promise<ChosenPorts> {
  const kept = readPorts(folder);
  const claim = await listenOn(CLAIM);
  const ports = { ...PREFERRED };
  const taken = new Set<number>();
  const isOurs = (port: number): boolean => claim !== undefined || !Object.values(PREFERRED).includes(port);
  for (const name of ['broker', 'controller', 'connect', 'registry'] as const) {
    const candidates = [...(kept === undefined ? [] : [kept[name]]), PREFERRED[name]].filter(isOurs);
    for (const candidate of [...candidates, 0]) {
      const port = taken.has(candidate) ? undefined : await tryPort(candidate);
      if (port === undefined) continue;
      taken.add(port);
      ports[name] = port;
      break;
    }
  }
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, 'ports.json'), JSON.stringify(ports));
  return { ports, release: () => claim?.close() };
}

export function readPorts(folder: string): Ports | undefined {
  try {
    return JSON.parse(readFileSync(join(folder, 'ports.json'), 'utf8')) as Ports;
  } catch {
    return undefined;
  }
}

/**
 * The configuration that API and workers run with: the user's own, with `source: kafka` and the stack's addresses; or the
 * default one with the store `crm` at `storeUrl`. Names of the environment in it stay names.
 */
export function writeConfiguration({
  folder,
  own,
  ports,
  storeUrl,
}: {
  folder: string;
  own: { readonly path: string } | undefined;
  ports: Ports;
  storeUrl: string | undefined;
}): string {
  const document =
    own === undefined
      ? new Document({
          stores: { crm: { connector: 'postgres', url: storeUrl, scopes: ['email', 'sms', 'push'] } },
        })
      : parseDocument(hideNames(readFileSync(own.path, 'utf8')));
  if (document.errors.length > 0 || document.contents === null) {
    throw new AbideError('CONFIG_INVALID', `${own?.path ?? 'The configuration'} cannot be read.`);
  }
  document.set('source', 'kafka');
  document.set('kafka', {
    brokers: [`127.0.0.1:${ports.broker}`],
    registry: `http://127.0.0.1:${ports.registry}/apis/ccompat/v7`,
    connect: `http://127.0.0.1:${ports.connect}`,
  });
  if (own !== undefined) {
    // A connector of the user's own is named relative to the user's file.
    const stores = document.toJS() as { stores?: Record<string, { connector?: unknown }> };
    for (const [name, { connector }] of Object.entries(stores.stores ?? {})) {
      if (typeof connector === 'string' && connector.startsWith('.'))
        document.setIn(['stores', name, 'connector'], resolve(own.path, '..', connector));
    }
  }
  const path = join(folder, 'abide.yaml');
  writeFileSync(path, showNames(document.toString()), { mode: 0o600 });
  return path;
}
