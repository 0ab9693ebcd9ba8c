<?php

declare(strict_types=1);

namespace OmegaUp\DAO;

/** Table Schools: see sql/frontend.sql. */
final class Schools
{
    /**
     * @return list<array<string, mixed>>
     * @throws \mysqli_sql_exception
     */
    public static function getRank(int $page, int $length): array
    {
        return \OmegaUp\MySQLConnection::getInstance()->select(
            'SELECT school_id, name, score FROM Schools ORDER BY score DESC, school_id LIMIT ? OFFSET ?',
            [$length, ($page - 1) * $length],
        );
    }
}
