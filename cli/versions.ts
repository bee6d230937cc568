// Which versions of the API there are, and who still uses them: one is retired when nobody does.
import type { Command } from 'commander';
import { stateOf } from '../api/version.ts';
import type { Version, VersionState } from '../api/version.ts';
import type { Usage } from '../ledger/contract/usage.ts';
import { listUsage, USAGE_DAYS_KEPT } from '../ledger/usage.ts';
import { ofInstallation } from './installation.ts';
import type { Installation } from './installation.ts';
import { onLedger } from './on-ledger.ts';
import { print, printJson, printTable } from './output.ts';
import { readCount } from './read-arguments.ts';

type Used = {
  readonly name: string;
  /** Undefined: it is no longer in the table, but was used all the same. */
  readonly version: Version | undefined;
  readonly state: VersionState;
  readonly requests: number;
  readonly usedBy: readonly Usage[];
};

export function addVersions(program: Command): void {
  ofInstallation(program.command('versions'))
    .description('The versions of the API: which end when, and who still uses them')
    .option('--days <n>', 'count the last days, today included', readCount(1, USAGE_DAYS_KEPT), 30)
    .option('--json', 'print JSON')
    .action(async ({ days, json, ...options }: Installation & { days: number; json?: boolean }) => {
      const usage = await onLedger(options, (pool) => listUsage(pool, days));
      const { VERSIONS } = await import('../api/versions.ts');
      const used = [...new Set([...Object.keys(VERSIONS), ...usage.map(({ version }) => version)])].map(
        (name): Used => {
          const version = VERSIONS[name];
          const usedBy = usage.filter((one) => one.version === name);
          return {
            name,
            version,
            state: version === undefined ? 'retired' : stateOf(version, new Date()),
            requests: usedBy.reduce((sum, { count }) => sum + count, 0),
            usedBy,
          };
        },
      );
      if (json === true) printJson(used.map(toPrinted));
      else printUsed(used, days);
    });
}

const toPrinted = ({ name, version, state, requests, usedBy }: Used) => ({
  version: name,
  state,
  deprecated_at: version?.deprecatedAt ?? null,
  sunset_at: version?.sunsetAt ?? null,
  link: version?.link ?? null,
  requests,
  used_by: usedBy.map(({ client, keyId, count, lastAt }) => ({
    client,
    key_id: keyId,
    requests: count,
    last_at: lastAt,
  })),
});

function printUsed(used: readonly Used[], days: number): void {
  printTable(
    ['VERSION', 'STATE', 'DEPRECATED', 'SUNSET', days === 1 ? 'REQUESTS TODAY' : `REQUESTS IN ${days} DAYS`],
    used.map(({ name, version, state, requests }) => [
      name,
      state,
      version?.deprecatedAt?.slice(0, 10) ?? '-',
      version?.sunsetAt?.slice(0, 10) ?? '-',
      String(requests),
    ]),
  );
  print('');
  printTable(
    ['VERSION', 'CLIENT', 'KEY', 'REQUESTS', 'LAST'],
    used.flatMap(({ name, usedBy }) =>
      usedBy.map(({ client, keyId, count, lastAt }) => [name, client, keyId, String(count), lastAt]),
    ),
  );
}
