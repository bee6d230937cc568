// One line a version. A new version is a folder beside v1/ and a line here.
import type { Operation, Routes } from './operation.ts';
import { addAcknowledgements } from './v1/acknowledgements.ts';
import { addChecks } from './v1/checks.ts';
import type { Deps } from './deps.ts';
import { addGate } from './v1/gate.ts';
import { addOptOuts } from './v1/opt-outs.ts';
import { addPropagationLagEvents } from './v1/propagation-lag-events.ts';
import { addPropagationLag } from './v1/propagation-lag.ts';
import { addPropagation } from './v1/propagation.ts';
import { addQuarantine } from './v1/quarantine.ts';
import { addReconciliation } from './v1/reconciliation.ts';
import { addSubjects } from './v1/subjects.ts';

type AddResource = (routes: Routes, deps: Deps) => void;

export const VERSIONS: Readonly<Record<string, readonly AddResource[]>> = {
  v1: [
    addOptOuts,
    addPropagation,
    addSubjects,
    addChecks,
    addPropagationLag,
    addPropagationLagEvents,
    addGate,
    addQuarantine,
    addReconciliation,
    addAcknowledgements,
  ],
};

/** What a version's resources say of themselves, where nothing is to be served: the handlers are made and never called. */
export function operationsOf(version: string): Operation[] {
  const operations: Operation[] = [];
  const routes: Routes = { add: (operation) => operations.push(operation) };
  for (const add of VERSIONS[version] ?? []) add(routes, {} as Deps);
  return operations;
}
