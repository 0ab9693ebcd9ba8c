<?php

declare(strict_types=1);

namespace OmegaUp\DAO;

/** Table Tags: see sql/tags.sql. */
final class Tags
{
    private const MOST = 50;

    /**
     * @param string $prefix without the wildcards of LIKE
     * @return list<string>
     * @throws \mysqli_sql_exception
     */
    public static function beginningWith(string $prefix): array
    {
        $rows = \OmegaUp\MySQLConnection::getInstance()->select(
            'SELECT name FROM Tags WHERE name LIKE ? ORDER BY name LIMIT ?',
            ["$prefix%", self::MOST],
        );
        return array_map(strval(...), array_column($rows, 'name'));
    }
}
