// SPDX-License-Identifier: Apache-2.0
pragma solidity ^0.8.28;

import {MockAgent} from "../kit/MockAgent.sol";
import {Weather} from "../examples/Weather.sol";

contract WeatherTest is MockAgent {
    function test_weather() public {
        _startAgent();
        Weather weather = new Weather(mockAnchor, MOCK_AGENT);
        weather.ask("Lisbon");
        _answer(1, abi.encode(int16(21)));
        require(weather.celsius("Lisbon") == 21);
    }
}
