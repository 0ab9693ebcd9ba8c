<?php

declare(strict_types=1);

namespace OmegaUp\DAO;

/** The grader's tables, which it writes and we only read: see the services' SQL. */
final class Contests
{
    /**
     * @return list<array{problem: string, submissions: int, accepted: int}>
     * @throws \mysqli_sql_exception
     */
    public static function getScoreboard(string $contest): array
    {
        $rows = \OmegaUp\MySQLConnection::getInstance()->select(
            'SELECT s.problem, COUNT(*) AS submissions, CAST(SUM(r.verdict = ?) AS SIGNED) AS accepted'
            . ' FROM Submissions s JOIN Runs r ON r.submission_id = s.submission_id'
            . ' WHERE s.contest = ? AND r.status = ? GROUP BY s.problem ORDER BY s.problem',
            ['AC', $contest, 'ready'],
        );
        return array_map(static fn (array $row): array => [
            'problem' => (string)$row['problem'],
            'submissions' => (int)$row['submissions'],
            'accepted' => (int)$row['accepted'],
        ], $rows);
    }
}
