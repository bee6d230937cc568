import type { Command } from 'commander';
import { dataFolderOf } from '../config/data-folder.ts';
import { environmentOf, ofInstallation } from './installation.ts';
import type { Installation } from './installation.ts';
import { EXIT, leave, print, printJson } from './output.ts';

export function addConfig(program: Command): void {
  const config = program.command('config').description('The configuration');
  ofInstallation(config.command('check'))
    .description(
      "Read abide.yaml, then try every store, also its own statements, which are undone. Abide's own connectors change nothing; one of yours is opened and reads one person back. Issuers of tokens are asked for their keys.",
    )
    .option('--offline', 'only read the file; reach no store and no issuer')
    .option('--json', 'print JSON')
    .action(async (options: Installation & { offline?: boolean; json?: boolean }) => {
      const [{ readConfiguration }, { checkStores }, { checkIssuers }, { lackingSecrets }] =
        await Promise.all([
          import('../processes/running-database.ts'),
          import('../processes/check-stores.ts'),
          import('../api/guard/issuer-keys.ts'),
          import('../processes/given-secrets.ts'),
        ]);
      const env = environmentOf(options);
      const configuration = await readConfiguration(env);
      const note = lackingSecrets(configuration, dataFolderOf(env), env);
      const [results, issuers] =
        options.offline === true
          ? [[], []]
          : await Promise.all([checkStores(configuration.stores), checkIssuers(configuration.oauth)]);
      if (options.json === true)
        printJson({
          stores: configuration.stores.map(({ name }) => name),
          checked: results,
          issuers,
          ...(note === undefined ? {} : { note }),
        });
      else {
        print(`configuration: fine, ${configuration.stores.length} store(s)`);
        if (note !== undefined) print(`before it starts: ${note}`);
        for (const { store, problem, note: beside } of results)
          print(`${store}: ${problem ?? 'fine'}${beside === undefined ? '' : `; ${beside}`}`);
        for (const { issuer, problem } of issuers) print(`issuer ${issuer}: ${problem ?? 'fine'}`);
      }
      if ([...results, ...issuers].some(({ problem }) => problem !== undefined)) process.exitCode = EXIT.no;
      leave();
    });
}
