// Which installation a command is about: that of `--config` and `--data`, else that of ABIDE_CONFIG and ABIDE_DATA.
import type { Command } from 'commander';

export type Installation = { readonly config?: string; readonly data?: string };

export const ofInstallation = (command: Command): Command =>
  command
    .option('--config <file>', 'abide.yaml (ABIDE_CONFIG; default ./abide.yaml, if there is one)')
    .option('--data <folder>', 'the data folder (ABIDE_DATA; default .abide)');

/** The environment with the options as its variables' values. */
export const environmentOf = ({
  config,
  data,
}: Installation): Readonly<Record<string, string | undefined>> => ({
  ...process.env,
  ...(config === undefined ? {} : { ABIDE_CONFIG: config }),
  ...(data === undefined ? {} : { ABIDE_DATA: data }),
});
