import { plain } from '../core/plain.ts'
import { colour } from '../core/log.ts'
import { type Change, type Finding, HAZARDS, type Hazard, type Step } from './change.ts'
import type { Planned } from './planner.ts'
import { hazardsOf } from './saved.ts'

const SYMBOLS = { create: '+', alter: '~', drop: '-' } as const
const COLOURS = { create: 'green', alter: 'yellow', drop: 'red' } as const

/**
 * A plan for people: a line a change, the findings, and a sum.
 * @param withSteps shows what runs, too
 * @param found what was found, for the line of the sum
 */
export function showPlan(planned: Planned, withSteps = false, found = ''): string {
  const { changes, findings } = planned
  return [
    ...changes.flatMap((change) => [showChange(change), ...(withSteps ? change.steps.map(showStep) : [])]),
    ...findings.map(showFinding),
    `${summary(planned)}${found}`,
    ...hazardsOf(changes).map(showHazard),
  ].join('\n')
}

/** `+ role xtelem: login` */
export function showChange({ action, kind, name, line, hazards }: Change): string {
  const needs = hazards.length === 0 ? '' : ` [${hazards.join(', ')}]`
  return `${colour(COLOURS[action], SYMBOLS[action])} ${kind} ${plain(name)}: ${plain(line)}${needs}`
}

/** `! hba rule 2: method "trust" lets everybody in`, with its hint below. */
export function showFinding({ level, kind, name, text, hint }: Finding): string {
  const symbol = colour(level === 'impossible' ? 'red' : 'yellow', '!')
  const lead = level === 'impossible' ? 'impossible: ' : ''
  return `${symbol} ${kind} ${plain(name)}: ${lead}${plain(text)}${hint ? `\n    ${plain(hint)}` : ''}`
}

/** What a step runs, without any secret: those are references. */
export function showStep(step: Step): string {
  return `    ${colour('dim', plain(describeStep(step)))}`
}

function describeStep(step: Step): string {
  switch (step.run) {
    case 'sql':
      return `${step.database}: ${step.text}`
    case 'write':
      return `write ${step.path} (${step.mode.toString(8)}, ${step.owner})`
    case 'folder':
      return `folder ${step.path} (${step.mode.toString(8)}, ${step.owner})`
    case 'exec':
      return `${step.as ? `as ${step.as}: ` : ''}${step.argv.map(showArgument).join(' ')}`
    case 'start':
    case 'reload':
    case 'restart':
      return step.run
  }
}

function showArgument(argument: string): string {
  return /^[\w@%+=:,./-]+$/.test(argument) ? argument : `'${argument.replaceAll("'", String.raw`'\''`)}'`
}

function summary({ changes, findings }: Planned): string {
  if (changes.length === 0 && findings.length === 0) return 'nothing to do'
  const count = (action: Change['action']) => changes.filter((change) => change.action === action).length
  const parts = [`${count('create')} to create`, `${count('alter')} to change`, `${count('drop')} to drop`]
  const found =
    findings.length === 0 ? '' : `; ${findings.length} ${findings.length === 1 ? 'finding' : 'findings'}`
  return `${changes.length === 0 ? 'nothing to do' : parts.join(', ')}${found}`
}

function showHazard(hazard: Hazard): string {
  return `needs --allow ${hazard}: ${HAZARDS[hazard]}`
}
