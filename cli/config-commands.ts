import type { Command } from 'commander';
import { dataFolderOf } from '../config/data-folder.ts';
import { environmentOf, ofInstallation } from './installation.ts';
import type { Installation } from './installation.ts';
import { EXIT, leave, print, printJson } from './output.ts';

export function addConfig(program: Command): void {
  const config = program.command('config').description('The configuration');
  ofInstallation(config.command('check'))
    .description(
      "Read abide.yaml, then try every store, also its own statements, which are undone. Abide's own connectors change nothing; one of yours is opened and reads one person back.",
    )
    .option('--offline', 'only read the file; reach no store')
    .option('--json', 'print JSON')
    .action(async (options: Installation & { offline?: boolean; json?: boolean }) => {
      const [{ readConfiguration }, { checkStores }, { lackingSecrets }] = await Promise.all([
        import('../processes/running-database.ts'),
        import('../processes/check-stores.ts'),
        import('../processes/given-secrets.ts'),
      ]);
      const env = environmentOf(options);
      const configuration = await readConfiguration(env);
      const note = lackingSecrets(configuration, dataFolderOf(env), env);
      const results = options.offline === true ? [] : await checkStores(configuration.stores);
      if (options.json === true)
        printJson({
          stores: configuration.stores.map(({ name }) => name),
          checked: results,
          ...(note === undefined ? {} : { note }),
        });
      else {
        print(`configuration: fine, ${configuration.stores.length} store(s)`);
        if (note !== undefined) print(`before it starts: ${note}`);
        for (const { store, problem, note: beside } of results)
          print(`${store}: ${problem ?? 'fine'}${beside === undefined ? '' : `; ${beside}`}`);
      }
      if (results.some(({ problem }) => problem !== undefined)) process.exitCode = EXIT.no;
      leave();
    });
}
